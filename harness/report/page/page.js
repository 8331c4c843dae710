// The script of the results page: sorting, filtering, and where each number comes from. The page is readable without it.
// It writes texts only (textContent), loads nothing, and is the only script that the page's content policy lets run.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const make = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const button = (text, action, kind) => {
  const node = make("button", text, kind);
  node.type = "button";
  node.addEventListener("click", action);
  return node;
};
// By run the place of its value and one: 0 is none, and -n says that what stands before it comes n times more.
const places = coded => {
  const out = [];
  for (const n of coded) if (n < 0) out.length += -n, out.fill(out[out.length + n - 1], n); else out.push(n);
  return out;
};
const fact = (run, name) => {
  const column = data.facts[name];
  return column ? column.values[(column.of ??= places(column.at))[run] - 1] ?? "" : "";
};
const number = text => {
  const found = /^[+\-]?[0-9]+(?:\.[0-9]+)?/.exec(text.trim());
  return found ? parseFloat(found[0]) : NaN;
};
// Numbers by size, texts by alphabet, what is missing last whichever way.
const sorted = (items, key, down) => items.map(item => [key(item), item]).sort(([a], [b]) => {
  const none = value => value === null || value === "" || Number.isNaN(value);
  if (none(a) || none(b)) return none(a) - none(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : (String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0);
  return down ? -order : order;
}).map(([, item]) => item);
// Of these a small number is the better one, or the first.
const LOW = /^(seed|mean rank|s\/step|peak MB|minutes|MiB)$|latency/;
// A click sorts best first, the next one worst first, the third as it was: then `sort` gets null.
const sortable = (head, falls, sort) => {
  const heads = [...head.querySelectorAll("th")];
  heads.forEach((th, column) => {
    const text = th.textContent;
    th.textContent = "";
    th.append(button(text, () => {
      const [first, second] = falls(column) && !LOW.test(text) ? ["descending", "ascending"] : ["ascending", "descending"];
      const now = th.getAttribute("aria-sort"), next = now === first ? second : now === second ? null : first;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      if (next) th.setAttribute("aria-sort", next);
      sort(next && column, next === "descending");
    }, "sort"));
  });
};
const filter = (label, change) => {
  const box = make("label", label + " ", "filter"), input = make("input");
  input.type = "search";
  input.addEventListener("input", () => change(input.value.toLowerCase()));
  box.append(input);
  return box;
};
// Whole words: a cell, or a part of it between signs; of a run's id the beginning too. "seed:1" looks in one column.
const plain = text => text.toLowerCase().replace(/\s+/g, "");
const words = cell => { const text = String(cell ?? "").toLowerCase(); return [text.trim(), ...text.split(/[^\p{L}\p{N}._-]+/u)].filter(Boolean); };
const matcher = (names, ids) => {
  const columns = names.map(plain);
  return wanted => {
    const asked = wanted.split(/\s+/).filter(Boolean).map(word => {
      const [, name, rest] = /^([^:]+):(.*)$/.exec(word) || [];
      const column = name ? columns.indexOf(name) : -1;
      return column < 0 ? [word, -1] : [rest, column];
    });
    const is = (row, word, i) => row[i].includes(word) || (i === ids && word.length > 3 && row[i][0]?.startsWith(word));
    return row => asked.every(([word, column]) => !word || (column < 0 ? row.some((_, i) => is(row, word, i)) : is(row, word, column)));
  };
};

// --- copies of tables

const LATEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "▲": "$\\uparrow$",
  "▼": "$\\downarrow$", "−": "$-$", "–": "--", "[": "{[}", "*": "{*}", "<": "\\textless{}",
  ">": "\\textgreater{}", "|": "\\textbar{}"};
for (const c of "&%$#_{}") LATEX[c] = "\\" + c;
const latex = text => [...text].map(c => LATEX[c] ?? c).join("").replace(/(^|[\s{}\]])-(?=\d)/g, "$1$$-$$");
const FORMS = {
  Markdown: ([head, ...rows]) => {
    const line = cells => "| " + cells.map(text => text.replace(/([\\|<>`*_#~&$])/g, "\\$1")).join(" | ") + " |";
    return [line(head), "|" + head.map((_, i) => i ? "---:" : "---").join("|") + "|", ...rows.map(line)].join("\n") + "\n";
  },
  LaTeX: ([head, ...rows]) => {
    const line = cells => cells.map(latex).join(" & ") + " \\\\";
    return ["% needs \\usepackage{booktabs}", "\\begin{tabular}{l" + "r".repeat(head.length - 1) + "}", "\\toprule", line(head), "\\midrule",
      ...rows.map(line), "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
  },
  // A text that begins as a formula does gets an apostrophe, a number none.
  CSV: rows => rows.map(cells => cells.map(text => {
    const safe = /^\s*[=+\-@]/.test(text) && isNaN(text) ? "'" + text : text;
    return /[",\n\r]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
  }).join(",")).join("\n") + "\n",
};
// What is missing stands behind the value; p-values are hints and stay on the page.
const written = cell => {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll("small").forEach(node => node.remove());
  copy.querySelectorAll("em").forEach(node => { if (node.parentNode.textContent !== node.textContent) node.prepend("; "); });
  return copy.textContent.replace(/\s+/g, " ").trim();
};
const texts = node => [...node.rows].filter(tr => !tr.hidden).map(tr => [...tr.cells].map(written));
const copies = rows => {
  const bar = make("div", "Copy as ", "copies");
  for (const form of Object.keys(FORMS)) {
    const node = button(form, () => {
      const text = FORMS[form](rows());
      const done = () => { node.textContent = "copied"; setTimeout(() => { node.textContent = form; }, 1500); };
      const by_hand = () => {
        const box = make("textarea", text);
        box.readOnly = true;
        box.setAttribute("aria-label", form);
        show("Copy it from here", box);
        box.focus();
        box.select();
      };
      if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, by_hand); else by_hand();
    });
    bar.append(node);
  }
  return bar;
};

// Sort a table's lines by a click on a head; a field above many lines filters them; buttons copy it.
function lines(node) {
  // Lines above the last body stay where they are.
  const body = [...node.tBodies].at(-1), all = [...body.rows], names = [...node.tHead.rows[0].cells].map(th => th.textContent);
  const falls = column => column > 0;
  const at = new Map(all.map(tr => [tr, [...tr.cells].map(td => words(written(td)))]));
  sortable(node.tHead, falls, (column, down) => body.append(...(column === null ? all : sorted(all, tr => {
    const text = tr.cells[column].textContent;
    return column === 0 ? text : number(text);
  }, down))));
  const outer = node.parentNode, find = matcher(names, -1);
  if (all.length > 8) outer.before(filter("Filter", text => {
    const fits = find(text);
    for (const tr of all) tr.hidden = !fits(at.get(tr));
  }));
  outer.after(copies(() => texts(node)));
}

// --- the dialog

const dialog = make("dialog"), inside = make("div", "", "inside");
const close = button("Close", () => dialog.close(), "close");
dialog.append(close, inside);
dialog.setAttribute("aria-labelledby", "dialog-title");
document.body.append(dialog);
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
const show = (title, ...nodes) => {
  const heading = make("h2", title);
  heading.id = "dialog-title";
  inside.replaceChildren(heading, ...nodes);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  close.focus();
};
const list = pairs => {
  const node = make("dl");
  for (const [name, value] of pairs) node.append(make("dt", name), make("dd", value));
  return node;
};
const id = run => data.rows[run][11];
const table = (head, rows) => {
  const node = make("table", "", "plain"), thead = make("thead"), tbody = make("tbody"), top = make("tr");
  for (const name of head) { const th = make("th", name); th.scope = "col"; top.append(th); }
  thead.append(top);
  for (const cells of rows) {
    const tr = make("tr");
    for (const cell of cells) {
      const td = make("td");
      td.append(cell instanceof Node ? cell : cell === null ? "–" : String(cell));
      tr.append(td);
    }
    tbody.append(tr);
  }
  node.append(thead, tbody);
  const scroll = make("div", "", "scroll"), both = make("div");
  scroll.append(node);
  both.append(scroll, copies(() => texts(node)));
  return both;
};
// The commit that a run was made with, where its code has one.
const checkout = runs => [...new Set(runs.map(run => fact(run, "code_version")))].map(code => {
  const [, commit, changed] = /\+([0-9a-f]{7,40})(\.dirty)?$/.exec(code) || [];
  if (commit) return "git checkout " + commit + (changed ? "  # with changes that were not committed" : "") + "\n";
  return "# code " + (/^[\w.+-]+$/.test(code) ? code : "of an unknown version") + ": no commit is known\n";
}).join("");
const link = run => button(id(run), () => one(run), "link");
const one = run => {
  const row = data.rows[run], facts = [], spec = [];
  for (const name of Object.keys(data.facts)) {
    const value = fact(run, name);
    if (!value || name === "repeat") continue;
    if (name.startsWith("spec.")) spec.push("\"" + name.slice(5) + "\": " + value); else facts.push([name, value]);
  }
  show(row[1] + ", seed " + row[2] + " (" + row[0] + ")", list(facts), make("h3", "Repeat it"), make("pre",
    checkout([run]) + "rm " + (data.several ? fact(run, "experiment") + "/" : "") + "runs/" + id(run) + ".parquet  # a finished run is not repeated; results unpack first, if it is packed\n" + fact(run, "repeat")),
    make("h3", "Resolved run"), make("pre", "{\n" + spec.join(",\n") + "\n}"));
};
const different = (runs, name) => [...new Set(runs.map(run => fact(run, name)).filter(Boolean))].join(", ") || "not known";
const source = runs => [...(data.missing ? [make("p", "Of " + data.missing + " more rows nothing but the table is on this page.", "note")] : []),
  list([["runs", runs.length], ["commit", different(runs, "code_version")],
  ["protocol", different(runs, "protocol_version")], ["device", different(runs, "device")]]),
  make("h3", "Repeat them"), make("pre", checkout(runs) + [...new Set(runs.map(run => fact(run, "repeat")))].join("\n"))];
const seeds = line => Object.keys(line.runs).map(key => isNaN(key) ? key : Number(key)).sort((a, b) => String(a).localeCompare(String(b), undefined, {numeric: true}));
// A line that several teachers share has a run for each seed only.
const at = (line, key) => line.runs[key] ?? line.runs[String(key).split("seed ")[1]];

// --- cells of the comparison: the runs behind each number

const AGAINST = {"vs none": 0, "vs kd": 1}, OF_A_RUN = {"mIoU (val)": 7, "dev": 5, "s/step": 8};
const miou = run => data.rows[run][OF_A_RUN["mIoU (val)"]];
const cell = (block, line, column, title) => {
  const runs = seeds(line).map(seed => line.runs[seed]), name = line.label + ": " + title + " (" + block.where + ")";
  const said = make("p", line.cells[column], "said");
  const compares = title in AGAINST, reference = compares ? block.lines.find(x => x.label === block.references[AGAINST[title]]) : null;
  if (!runs.length) return show(name, said, make("p", "No run has a result."));
  if (reference === line) return show(name, said, make("p", "It is what the others are compared with."), ...source(runs));
  const more = reference && seeds(reference).length > seeds(line).length ? reference : line;
  const both = reference ? seeds(more).filter(key => at(line, key) !== undefined && at(reference, key) !== undefined) : [];
  if (compares && !both.length) return show(name, said, make("p", "There is no run of the same seed to compare with."), ...source(runs));
  if (!compares) {
    const value = run => title in OF_A_RUN ? data.rows[run][OF_A_RUN[title]] : fact(run, "peak_memory_mb");
    return show(name, said, table(["seed", title, "run"], seeds(line).map(s => [s, value(line.runs[s]), link(line.runs[s])])), ...source(runs));
  }
  show(name, said, table(["seed", line.label, reference.label, "difference", "run", "run of " + reference.label], both.map(s => {
    const [a, b] = [at(line, s), at(reference, s)];
    return [s, miou(a).toFixed(2), miou(b).toFixed(2), (miou(a) - miou(b)).toFixed(2), link(a), link(b)];
  })), ...source([...new Set(both.flatMap(s => [at(line, s), at(reference, s)]))]));
};
const opening = (td, name, open) => {
  const node = button(null, open, "cell");
  node.setAttribute("aria-label", name + ": " + td.textContent + "; where it comes from");
  node.append(...td.childNodes);
  td.append(node);
};
document.querySelectorAll("table[data-block]").forEach(node => {
  const block = data.blocks[node.dataset.block], byClass = node.classList.contains("heat");
  const head = [...node.tHead.rows[0].cells].map(th => th.textContent), body = node.tBodies[0], all = [...body.rows];
  all.forEach((tr, place) => [...tr.cells].forEach((td, column) => {
    if (column === 0 || (byClass && column === head.length - 1)) return;
    const open = () => byClass ? ofClass(block, head[column], place, tr.cells[0].textContent) : cell(block, block.lines[place], column - 1, head[column]);
    opening(td, tr.cells[0].textContent + ", " + head[column], open);
  }));
  lines(node);
});
// Cells of a matrix say which block and line they are of; points of a figure lead to them.
document.querySelectorAll("td[data-at]").forEach(td => {
  const [at, place] = td.dataset.at.split(" "), block = data.blocks[at], line = block.lines[place];
  const [column, title] = line.label === block.references[0] ? [0, "mIoU (val)"] : [2, "vs none"];
  opening(td, line.label + ", " + block.where, () => cell(block, line, column, title));
});
document.querySelectorAll("figure a").forEach(node => node.addEventListener("click", event => {
  event.preventDefault();
  document.getElementById(node.getAttribute("href").slice(1)).querySelector("button").click();
}));
document.querySelectorAll("table:not([data-block])").forEach(lines);
function ofClass(block, column, k, name) {
  const line = block.lines.find(x => x.label === column);
  const runs = line ? seeds(line).map(seed => line.runs[seed]) : [block.teacher];
  show(column + ": IoU of " + name + " (" + block.where + ")", table(["seed", "IoU", "run"],
    runs.map(run => [data.rows[run][2], data.iou[run] ? data.iou[run][k] : null, link(run)])), ...source(runs));
}

// --- the table of runs: only the lines that are shown are in the document

const STEP = 100, host = document.getElementById("runs");
let matching = data.rows.map((_, run) => run), shown = STEP;
const VARY = [0, 10];  // columns that are shown only where runs differ in them
const columns = data.columns.map((_, i) => i).filter(i => !VARY.includes(i) || new Set(data.rows.map(row => row[i])).size > 1);
const TEXTS = [0, 1, 3, 4, 10, 11];
const grid = make("table", "", "runs"), thead = make("thead"), top = make("tr"), tbody = make("tbody");
for (const i of columns) { const th = make("th", data.columns[i], TEXTS.includes(i) ? "text" : ""); th.scope = "col"; top.append(th); }
thead.append(top);
grid.append(thead, tbody);
const count = make("p", "", "note"), more = button("Show more", () => { shown += 10 * STEP; draw(); }, "more");
count.setAttribute("role", "status");
const shownAs = (run, i) => {
  const value = data.rows[run][i];
  return i >= 5 && i <= 7 && value !== null ? value.toFixed(2) : String(value ?? "–");
};
const draw = () => {
  const lines = matching.slice(0, shown).map(run => {
    const tr = make("tr");
    for (const i of columns) {
      const td = make("td", i === 11 ? null : shownAs(run, i), (i === 4 && data.rows[run][4] !== "ok" ? "bad " : "") + (TEXTS.includes(i) ? "text" : ""));
      td.dataset.label = data.columns[i];
      if (i === 11) td.append(link(run));
      tr.append(td);
    }
    // The link in it is for keys; words that are being selected are not a click.
    tr.addEventListener("click", event => { if (!event.target.closest("button") && !String(getSelection())) one(run); });
    return tr;
  });
  tbody.replaceChildren(...lines);
  count.textContent = Math.min(shown, matching.length) + " of " + matching.length + " matching runs are shown; " + data.rows.length + " in all.";
  more.hidden = shown >= matching.length;
};
const find = matcher(data.columns, 11);
let wordsOf = null;  // of many runs it takes a moment, and not every reader filters
let order = matching, wanted = "";
const every = matching;
const select = () => {
  const fits = find(wanted);
  if (wanted) wordsOf ??= data.rows.map(row => row.map(words));
  matching = wanted ? order.filter(run => fits(wordsOf[run])) : order;
  draw();
};
sortable(thead, column => !TEXTS.includes(columns[column]), (column, down) => {
  order = column === null ? every : sorted(every, run => data.rows[run][columns[column]], down);
  select();
});
const scroll = make("div", "", "scroll");
scroll.append(grid);
const copied = () => [columns.map(i => data.columns[i]), ...matching.map(run => columns.map(i => shownAs(run, i)))];
host.replaceChildren(filter("Filter runs", text => { wanted = text; shown = STEP; select(); }),
  make("p", "Whole words, all of which must occur; seed:1 or method:kd looks in one column.", "note hint"), count, scroll, copies(copied), more);
draw();
})();
