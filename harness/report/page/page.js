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
const fact = (run, name) => {
  const column = data.facts[name];
  return column && column.at[run] >= 0 ? column.values[column.at[run]] : "";
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
const sortable = (head, sort) => {
  const heads = [...head.querySelectorAll("th")];
  heads.forEach((th, column) => {
    const text = th.textContent;
    th.textContent = "";
    th.append(button(text, () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(column, down);
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

// Sort a table's lines by a click on a head; a field above many lines filters them.
function lines(node) {
  const body = node.tBodies[0], all = [...body.rows];
  sortable(node.tHead, (column, down) => body.append(...sorted(all, tr => {
    const text = tr.cells[column].textContent;
    return column === 0 ? text : number(text);
  }, down)));
  if (all.length > 8) node.parentNode.before(filter("Filter", text => {
    for (const tr of all) tr.hidden = !tr.textContent.toLowerCase().includes(text);
  }));
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
  const scroll = make("div", "", "scroll");
  scroll.append(node);
  return scroll;
};
const link = run => button(id(run), () => one(run), "link");
const one = run => {
  const row = data.rows[run], facts = [], spec = [];
  for (const name of Object.keys(data.facts)) {
    const value = fact(run, name);
    if (!value || name === "repeat") continue;
    if (name.startsWith("spec.")) spec.push("\"" + name.slice(5) + "\": " + value); else facts.push([name, value]);
  }
  show(row[1] + ", seed " + row[2] + " (" + row[0] + ")", list(facts), make("h3", "Repeat it"), make("pre",
    "rm runs/" + id(run) + ".parquet  # a finished run is not repeated; results unpack first, if it is packed\n" + fact(run, "repeat")),
    make("h3", "Resolved run"), make("pre", "{\n" + spec.join(",\n") + "\n}"));
};
const different = (runs, name) => [...new Set(runs.map(run => fact(run, name)).filter(Boolean))].join(", ") || "not known";
const source = runs => [...(data.missing ? [make("p", "Of " + data.missing + " more rows nothing but the table is on this page.", "note")] : []),
  list([["runs", runs.length], ["commit", different(runs, "code_version")],
  ["protocol", different(runs, "protocol_version")], ["device", different(runs, "device")]]),
  make("h3", "Repeat them"), make("pre", [...new Set(runs.map(run => fact(run, "repeat")))].join("\n"))];
const seeds = line => Object.keys(line.runs).map(key => isNaN(key) ? key : Number(key)).sort((a, b) => String(a).localeCompare(String(b), undefined, {numeric: true}));
// A line that several teachers share has a run for each seed only.
const at = (line, key) => line.runs[key] ?? line.runs[String(key).split("seed ")[1]];

// --- cells of the comparison: the runs behind each number

const AGAINST = {"vs none": 0, "vs kd": 1}, OF_A_RUN = {"mIoU (val)": 7, "dev": 5, "s/step": 8};
const miou = run => data.rows[run][OF_A_RUN["mIoU (val)"]];
const cell = (block, line, column, title) => {
  const runs = seeds(line).map(seed => line.runs[seed]), name = line.label + ": " + title + " (" + block.pair + " on " + block.dataset + ")";
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
document.querySelectorAll("table[data-block]").forEach(node => {
  const block = data.blocks[node.dataset.block], byClass = node.classList.contains("heat");
  const head = [...node.tHead.rows[0].cells].map(th => th.textContent), body = node.tBodies[0], all = [...body.rows];
  all.forEach((tr, place) => [...tr.cells].forEach((td, column) => {
    if (column === 0 || (byClass && column === head.length - 1)) return;
    const open = () => byClass ? ofClass(block, head[column], place, tr.cells[0].textContent) : cell(block, block.lines[place], column - 1, head[column]);
    const node = button(null, open, "cell");
    node.append(...td.childNodes);
    td.append(node);
    node.setAttribute("aria-label", tr.cells[0].textContent + ", " + head[column] + ": " + td.textContent + "; where it comes from");
  }));
  lines(node);
});
document.querySelectorAll("table.exports").forEach(lines);
function ofClass(block, column, k, name) {
  const line = block.lines.find(x => x.label === column);
  const runs = line ? seeds(line).map(seed => line.runs[seed]) : [block.teacher];
  show(column + ": IoU of " + name + " (" + block.pair + " on " + block.dataset + ")", table(["seed", "IoU", "run"],
    runs.map(run => [data.rows[run][2], data.iou[run] ? data.iou[run][k] : null, link(run)])), ...source(runs));
}

// --- the table of runs: only the lines that are shown are in the document

const STEP = 100, host = document.getElementById("runs");
let matching = data.rows.map((_, run) => run), shown = STEP;
const columns = data.columns.map((_, i) => i).filter(i => i > 0 || new Set(data.rows.map(row => row[0])).size > 1);
const grid = make("table", "", "runs"), thead = make("thead"), top = make("tr"), tbody = make("tbody");
for (const i of columns) { const th = make("th", data.columns[i]); th.scope = "col"; top.append(th); }
thead.append(top);
grid.append(thead, tbody);
const count = make("p", "", "note"), more = button("Show more", () => { shown += 10 * STEP; draw(); }, "more");
count.setAttribute("role", "status");
const draw = () => {
  const lines = matching.slice(0, shown).map(run => {
    const tr = make("tr");
    for (const i of columns) {
      const value = data.rows[run][i], text = i >= 5 && i <= 7 && value !== null ? value.toFixed(2) : value ?? "–";
      const td = make("td", i === 11 ? null : text, i === 4 && data.rows[run][4] !== "ok" ? "bad" : "");
      if (i === 11) td.append(link(run));
      tr.append(td);
    }
    return tr;
  });
  tbody.replaceChildren(...lines);
  count.textContent = Math.min(shown, matching.length) + " of " + matching.length + " matching runs are shown; " + data.rows.length + " in all.";
  more.hidden = shown >= matching.length;
};
const texts = data.rows.map(row => row.join(" ").toLowerCase());
let order = matching, wanted = "";
const select = () => {
  const words = wanted.split(/\s+/).filter(Boolean);
  matching = order.filter(run => words.every(word => texts[run].includes(word)));
  draw();
};
sortable(thead, (column, down) => { order = sorted(order, run => data.rows[run][columns[column]], down); select(); });
const scroll = make("div", "", "scroll");
scroll.append(grid);
host.replaceChildren(filter("Filter runs", text => { wanted = text; shown = STEP; select(); }), count, scroll, more);
draw();
})();
