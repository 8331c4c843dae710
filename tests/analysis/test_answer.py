"""What a block answers, in all cases: every sentence is written out here."""

from dataclasses import replace

import pyarrow as pa
import pytest

from harness.analysis.answer import against_longer, answer, best, by_gain, differences, distilled
from harness.analysis.comparison import quick_table
from harness.analysis.labels import Label
from harness.analysis.lines import Comparison, MethodRow
from harness.analysis.stats import Difference, Score
from harness.analysis.tables import Block, Teacher
from harness.report.write import table_of
from harness.results import store
from harness.results.schema import checked
from tests.support.commands import ROOT
from tests.support.rows import make_experiment, make_longer

HEAD = "On lite2-to-tiny and texmosaic, for this teacher, "
AHEAD, BEHIND, OPEN = (2.0, 1.0, 3.0), (-2.0, -3.0, -1.0), (0.5, -1.0, 2.0)
NO_LONGER = "the control of longer training was not run"
SAME = "the student without distillation with the same steps"
LONG = "that student trained for as long as the slowest method"
NO_INTERVAL = "(these are means; no interval is computed against it)"


def against(given, n=5, **changes):
    mean, low, high = given
    return Comparison(Difference(mean, low, high, n), **changes)


def line(name, mean, vs_none=None, n=5, failed=0, **changes):
    """A line whose comparison with the baseline is `vs_none`; `mean` None: without a result."""
    label = Label.read(name)
    reference = name if name in ("none", "kd") else ""
    return MethodRow(
        name=label,
        run_ids={} if mean is None else {seed: f"{name}-{seed}" for seed in range(n)},
        failed=failed,
        skipped=0,
        missing=changes.pop("missing", 0),
        expected=changes.pop("expected", n + failed),
        reference=changes.pop("reference", reference),
        values={} if mean is None else dict.fromkeys(range(n), mean),
        miou=None if mean is None else Score(mean, 0.5, n),
        vs_none=against(vs_none, n) if isinstance(vs_none, tuple) else vs_none,
        **changes,
    )


def block(*methods, **changes):
    given = {
        "pair": "lite2-to-tiny", "dataset": "texmosaic", "protocol": "2.0", "ruleset": "published",
        "budget_amount": 1000.0, "budget_unit": "steps", "devices": "cpu", "floor": None, "dev_floor": None,
        "teacher": Teacher(), "methods": methods, "comparisons": len(methods), "notes": (),
    }  # fmt: skip
    return Block(**(given | changes))


NONE = line("none", 60.0)


def longer(mean=64.0, n=5, vs_kd=None, **changes):
    c = None if vs_kd is None else against(vs_kd, n)
    return line("none at equal seconds", mean, OPEN, n, vs_kd=c, **changes)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        # nothing significant, control missing
        ((line("kd", 60.5, OPEN), line("cwd", 60.4, OPEN)), f"no method is significantly ahead of {SAME}; {NO_LONGER}"),
        ((line("kd", 60.5, OPEN),), f"kd is not significantly ahead of {SAME}; {NO_LONGER}"),
        # ahead of none, not of longer training
        (
            (longer(), line("kd", 62.0, AHEAD), line("cwd", 62.0, AHEAD), line("dist", 60.5, OPEN)),
            f"kd and cwd are significantly ahead of {SAME}; no method has a higher mean than {LONG} {NO_INTERVAL}",
        ),
        # ahead of both: the one interval that there is, and means
        (
            (longer(61.0, vs_kd=BEHIND), line("kd", 63.0, AHEAD), line("cwd", 62.0, AHEAD), line("at", 60.0, OPEN)),
            f"kd and cwd are significantly ahead of {SAME}; kd and cwd have a higher mean than {LONG} "
            "(these are means; by the only interval against it, kd is significantly ahead of it)",
        ),
        (
            (longer(61.0, vs_kd=OPEN), line("kd", 62.0, AHEAD), line("cwd", 62.0, AHEAD)),
            f"kd and cwd are significantly ahead of {SAME}; every method has a higher mean than {LONG} "
            "(these are means; by the only interval against it, kd is not significantly apart from it)",
        ),
        # kd alone has an interval against both
        (
            (longer(66.0, vs_kd=AHEAD), line("kd", 62.0, AHEAD)),
            f"kd is significantly ahead of {SAME}; kd is significantly behind {LONG}",
        ),
        ((longer(62.0), line("cwd", 62.0, AHEAD)), f"cwd is significantly ahead of {SAME}; cwd does not have a higher "
         f"mean than {LONG} {NO_INTERVAL}"),
        # some behind
        (
            (line("kd", 58.0, BEHIND), line("cwd", 60.4, OPEN)),
            f"no method is significantly ahead of {SAME}, and kd is significantly behind it; {NO_LONGER}",
        ),
        (
            (line("kd", 62.0, AHEAD), line("cwd", 58.0, BEHIND), line("at", 58.0, BEHIND)),
            f"kd is significantly ahead of {SAME}, and cwd and at are significantly behind it; {NO_LONGER}",
        ),
        ((line("cwd", 58.0, BEHIND),), f"cwd is significantly behind {SAME}; {NO_LONGER}"),
        # control without a result, with too few runs
        (
            (longer(None, 0, failed=5), line("kd", 62.0, AHEAD)),
            f"kd is significantly ahead of {SAME}; the control of longer training has no result: its runs failed",
        ),
        ((longer(None, 0, missing=5, expected=5), line("kd", 62.0, AHEAD)), f"kd is significantly ahead of {SAME}; "
         f"{NO_LONGER}"),
        (
            (longer(64.0, 2), line("kd", 62.0, AHEAD)),
            f"kd is significantly ahead of {SAME}; the control of longer training has too few runs (n=2)",
        ),
        # failed runs, too few runs, no runs, no seed in common, no spread
        (
            (line("kd", 62.0, AHEAD), line("cwd", 63.0, against(AHEAD, lost=1), failed=1), line("at", None, n=0)),
            f"kd is significantly ahead of {SAME}; {NO_LONGER}; nothing is claimed of cwd (failed runs) and at "
            "(no result)",
        ),
        (
            (line("kd", 62.0, OPEN), line("cwd", 63.0, against(AHEAD, 3), 3, failed=2), line("at", 60.0, AHEAD, 3),
             line("dist", 60.0), line("ifvd", 60.0, (0.0, None, None))),
            f"no method is significantly ahead of {SAME}; {NO_LONGER}; nothing is claimed of cwd (failed runs), at "
            "(too few runs), dist (no seed in common) and ifvd (no spread between seeds)",
        ),
        # of one that has too few runs nothing is said, not that it has no higher mean
        (
            (longer(61.0), line("kd", 60.0, OPEN), line("dist", 60.5, OPEN), line("cwd", 63.0, against(AHEAD, 3), 3)),
            f"no method is significantly ahead of {SAME}; none of kd and dist has a higher mean than {LONG} "
            f"{NO_INTERVAL}; nothing is claimed of cwd (too few runs)",
        ),
        # all methods of which something could be said have failed runs
        (
            (longer(), line("kd", 62.0, against(AHEAD, lost=1), failed=1)),
            f"kd is not significantly ahead of {SAME}; nothing is claimed of kd (failed runs)",
        ),
        # nothing can be said
        ((line("kd", 62.0, (2.0, None, None), 1),), "nothing can be said: one seed has no interval"),
        ((line("kd", 62.0, AHEAD, 3),), "nothing can be said: a claim needs 5 seeds, and there are 3"),
        ((line("kd", None, n=0, failed=5),), "nothing can be said: no method has a result"),
        ((line("kd", None, n=0, missing=5, expected=5),), "nothing can be said: no method has a result"),
        ((line("kd", 62.0),), "nothing can be said: no method shares a seed with the student without distillation"),
        ((line("kd", 62.0, (2.0, None, None)),), "nothing can be said: the seeds show no spread"),
    ],
)  # fmt: skip
def test_the_sentence(methods, said):
    assert answer(block(NONE, *methods)) == f"{HEAD}{said}."


def test_without_a_baseline_nothing_can_be_said():
    found = answer(block(line("none", None, n=0, failed=5), line("kd", 62.0)))
    assert found == f"{HEAD}nothing can be said: the student without distillation has no result."


def test_with_equal_seconds_longer_training_is_the_baseline():
    found = block(NONE, line("none at equal steps", 59.0), line("kd", 62.0, AHEAD), budget_unit="seconds")
    assert answer(found) == (
        f"{HEAD}kd is significantly ahead of the student without distillation with the same seconds."
    )


def test_of_many_methods_it_says_how_many():
    lines = [line(f"cwd(tau={i}.0)", 62.0, AHEAD) for i in range(8)]
    assert f"{HEAD}all 8 methods are significantly ahead" in answer(block(NONE, *lines))
    lines.append(line("at", 60.0, OPEN))
    assert f"{HEAD}8 of 9 methods are significantly ahead" in answer(block(NONE, *lines))


def test_several_teachers():
    taught = tuple(Teacher(seed=seed) for seed in (3, 6))
    many = {"n": 15, "teachers": 3, "several": True}
    kd = line("kd", 62.0, against(AHEAD, **many))
    found = answer(block(NONE, kd, others=taught))
    assert found == (
        f"On lite2-to-tiny and texmosaic, for teachers like these 3, kd is significantly ahead of {SAME}; {NO_LONGER}."
    )
    two = line("kd", 62.0, against(AHEAD, n=10, teachers=2, several=True))
    assert answer(block(NONE, two, others=taught[:1])).endswith(
        "for teachers like these 2, nothing can be said: a claim needs 3 teachers, and there are 2."
    )


def test_two_teachers_are_not_enough_and_a_shared_line_needs_none():
    assert not against(AHEAD, 10, teachers=2, several=True).enough
    assert against(AHEAD, 5, teachers=0, several=True).enough and against(AHEAD, 5).enough
    assert not against(AHEAD, 4).enough and not against(AHEAD, 12, teachers=3, several=True).enough


def test_it_agrees_with_the_marks_of_the_table():
    """Of rows: whoever is named ahead has a mark, and whoever has a mark is named."""
    rows = make_experiment(seeds=5)
    rows += make_longer(rows)
    (found,) = quick_table(pa.Table.from_pylist([checked(r) for r in rows], schema=store.SCHEMA)).blocks
    marked = [x.label for x in distilled(found) if "▲" in x.vs_none.text]
    text = answer(found)
    assert marked and text.partition(" are significantly ahead")[0].endswith(" and ".join(marked[-2:]))
    # The control's difference to kd is the family's; that of kd to the control is the same, seen from the other side.
    control = next(x for x in found.methods if x.name.control)
    kd = against_longer(found, found.line("kd"))
    assert kd.difference.mean == -control.vs_kd.difference.mean
    assert against_longer(found, found.line("cwd")) is None
    assert kd.difference.mean == pytest.approx(found.line("kd").miou.mean - control.miou.mean)


def test_of_the_shipped_quickstart():
    table, _ = table_of(ROOT / "results" / "examples" / "quickstart")
    (found,) = table.blocks
    assert answer(found) == (
        f"On {found.pair} and texmosaic, for this teacher, no method is significantly ahead of {SAME}; no method has a "
        f"higher mean than {LONG} (these are means; by the only interval against it, kd is significantly behind it)."
    )
    assert best(found).label == "none at equal seconds"


def test_the_best_value_is_one_that_is_significantly_ahead():
    kd, cwd = line("kd", 62.0, AHEAD), line("cwd", 63.0, OPEN)
    assert best(block(NONE, kd)).label == "kd"
    assert best(block(NONE, kd, cwd)) is None  # the highest is not significant, and kd is not the highest
    assert best(block(replace(NONE, miou=Score(70.0, 0.5, 5)), kd)) is None
    assert best(block(line("none", None))) is None


def test_differences_of_the_family_by_reference():
    kd = line("kd", 62.0, AHEAD)
    cwd = line("cwd", 63.0, OPEN, vs_kd=against(OPEN))
    found = differences(block(replace(NONE, vs_kd=against(BEHIND)), longer(vs_kd=OPEN), kd, cwd))
    assert {name: list(lines) for name, lines in found.items()} == {
        "none": ["none at equal seconds", "kd", "cwd"],
        "kd": ["none at equal seconds", "cwd"],
    }
    assert differences(block(NONE, line("cwd", None, n=0))) == {}


def test_lines_by_gain():
    gains = {"a": against(OPEN), "b": against(AHEAD), "c": against((9.0, None, None), 1)}
    assert by_gain(["none", "a", "c", "b"], gains) == ["b", "a", "none", "c"]
