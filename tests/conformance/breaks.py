"""What breaks each property: a piece of `sound.py`, and what it is replaced by."""

# Pieces that are replaced more than once.
ERROR = '"error": self.weight * error'
RETURN = "return {" + ERROR + ', "judge": judged.square().mean()}'
CHECK = """        if not 0 < weight < inf:
            raise ValueError(f"weight is finite and above 0; given weight={weight}")
"""
BUFFER = 'self.register_buffer("centre", torch.zeros(pair.num_classes))'
JUDGE = "OwnOptimizer(tuple(self.judge.parameters()), 0.001, (0.9, 0.99))"

# By what is broken: the property that fails, what its message says, and (old, new) pieces of the source.
BREAKS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "a stranger": ("contract", "not a subclass", [("class Sound(Distiller)", "class Sound(nn.Module)")]),
    "depth 2": (
        "contract",
        "inherit from Distiller alone",
        [("class Sound(Distiller):", "class Between(Distiller):\n    pass\n\n\nclass Sound(Between):")],
    ),
    "no equation": ("contract", "no equation", [("L = weight", "weight")]),
    "no reduction": ("contract", "how the loss is reduced", [("mean over labelled pixels of ", "")]),
    "no words": (
        "contract",
        "no docstring",
        [('    """Squared error of the scores at a random half of the labelled pixels."""\n', "")],
    ),
    "no year": ("contract", "give authors and year", [("nobody, 2026", "nobody")]),
    "by place": ("signature", "keyword-only", [("pair: Pair, *, weight", "pair: Pair, weight")]),
    "no type": ("signature", "has no annotation", [("weight: float = 1.0", "weight=1.0")]),
    "no pair": ("signature", "first argument is `pair`", [("self, pair: Pair, *", "self, pairing: Pair, *")]),
    "default outside the bounds": ("search-space", "without the default 1.0", [("(0.1, 10.0)", "(2.0, 10.0)")]),
    "bounds in disorder": ("search-space", "0 < low < high", [("(0.1, 10.0)", "(10.0, 0.1)")]),
    "bounds of nothing": ("search-space", "no hyper-parameter", [('{"weight": (0', '{"wight": (0')]),
    "nothing tuned": ("search-space", "space is empty", [('{"weight": (0.1, 10.0)}', "{}")]),
    "a space that is computed": (
        "search-space",
        "write it out there",
        [('= {"weight": (0.1, 10.0)}', "= dict(weight=(0.1, 10.0))")],
    ),
    "off without a range": (
        "search-space",
        "optional names wight",
        [("    def __init__", '    optional: ClassVar[tuple[str, ...]] = ("wight",)\n\n    def __init__')],
    ),
    "hangs on nothing": (
        "search-space",
        "name another hyper-parameter",
        [("    def __init__", '    needs: ClassVar[Mapping[str, str]] = {"weight": "wight"}\n\n    def __init__')],
    ),
    "weights of another name": (
        "search-space",
        "wight is none",
        [("    def __init__", '    weights: ClassVar[tuple[str, ...]] = ("wight",)\n\n    def __init__')],
    ),
    "weights that are computed": (
        "search-space",
        "write it out there",
        [("    def __init__", '    weights: ClassVar[tuple[str, ...]] = ("weight",) * 2\n\n    def __init__')],
    ),
    "any weight": ("refusals", "weight=nan is accepted", [(CHECK, "")]),
    "a curt refusal": (
        "refusals",
        "says the name",
        [('f"weight is finite and above 0; given weight={weight}"', '"no"')],
    ),
    "a start from numpy": (
        "seed",
        "stream of numpy moved",
        [
            (
                BUFFER,
                'import numpy\n        self.register_buffer("centre", torch.from_numpy(numpy.random.rand(pair.num_classes)).float())',
            )
        ],
    ),
    "a start from nowhere": (
        "seed",
        "centre differs between builds",
        [
            (
                BUFFER,
                'import os\n        self.register_buffer("centre", torch.zeros(pair.num_classes) + os.urandom(1)[0] + os.urandom(1)[0] / 256)',
            )
        ],
    ),
    "a map for a term": ("terms", "reduce it", [(ERROR, ERROR + " * student")]),
    "a number for a term": ("terms", "must be a tensor", [(ERROR, '"error": float(error.detach())')]),
    "a name in capitals": ("terms", "lower case", [(ERROR, '"Error": self.weight * error')]),
    "the task's name": ("terms", "supervised loss's name", [(ERROR, '"task": self.weight * error')]),
    "a list": ("terms", "returned list", [(RETURN, "return [error]")]),
    "no terms": ("terms", "needs_teacher = False", [(RETURN, "return {}")]),
    "an exception": ("terms", "KeyError", [("teacher = view.taught().full", 'teacher = view.taught().stages["none"]')]),
    "half precision": ("terms", "float16", [(ERROR, '"error": (self.weight * error).half()')]),
    "skip raises": (
        "terms",
        "skip raised KeyError",
        [("        return None\n", '        return pair.teacher.stages["stem"] and None\n')],
    ),
    "an empty reason": (
        "terms",
        "None or a reason",
        [("        return None\n", '        return None if "stem" in pair.teacher.stages else " "\n')],
    ),
    "a term without gradient": ("gradients", "no gradient", [(ERROR, '"error": (self.weight * error).detach()')]),
    "the student detached": (
        "gradients",
        "do not detach",
        [("self.adapter(view.student.full)", "self.adapter(view.student.full.detach())")],
    ),
    "writes to the teacher": (
        "read-only",
        "teacher's maps",
        [("full.float()\n        student", "full.float().mul_(1.5)\n        student")],
    ),
    "writes to the student": (
        "read-only",
        "student's maps",
        [("self.adapter(view.student.full)", "self.adapter(view.student.full.mul_(1.5))")],
    ),
    "writes to the labels": ("read-only", "labels", [("known = (view.labels", "known = (view.labels.clamp_(min=1)")]),
    "another minimum": (
        "minimum",
        "say why in `waived`",
        [("(student - teacher).square()", "(student - 2 * teacher).square()")],
    ),
    "repelled by the teacher": (
        "minimum",
        "smaller for another student",
        [("(student - teacher).square()", "-(student - teacher).square()")],
    ),
    "ignored pixels count": (
        "ignored-pixels",
        "leave those pixels out",
        [("kept = known &", "kept = ((view.labels == 1).unsqueeze(1) | ~known) &")],
    ),
    "255 is ignored": ("ignored-pixels", "ignore_index -1", [("weight, pair.ignore_index", "weight, 255")]),
    "no labels, no number": ("no-labels", "error is nan (no image has labels)", [(".clamp(min=1)", "")]),
    "absent classes": (
        "absent-classes",
        "one class is labelled",
        [
            (
                ".clamp(min=1)",
                ".clamp(min=1)\n        if known.any():\n            error = error * (view.labels == 0).sum() / (view.labels == 0).sum()",
            )
        ],
    ),
    "logarithm of a softmax": (
        "absent-classes",
        "leave no doubt",
        [(".clamp(min=1)", ".clamp(min=1) + 0 * teacher.softmax(1).log().mean()")],
    ),
    "even sides": (
        "sizes",
        "RuntimeError",
        [("        self._remember", "        teacher.unflatten(2, (-1, 2))\n        self._remember")],
    ),
    "two images": (
        "sizes",
        "error is nan (image (1, 64, 64)",
        [
            (
                ".clamp(min=1)",
                ".clamp(min=1) + 0 * teacher.sum((1, 2, 3)).square().sum() / (len(teacher) - 1) * torch.zeros(())",
            )
        ],
    ),
    "the first step": ("progress", "error is inf (progress 0)", [(".clamp(min=1)", ".clamp(min=1) / view.progress")]),
    "deviation of a constant": (
        "flat-maps",
        "maps of teacher are 0",
        [(".clamp(min=1)", ".clamp(min=1) + 0 * (teacher / teacher.std()).mean()")],
    ),
    "a root of nothing": (
        "flat-maps",
        "is not finite (maps of student are 0)",
        [(".clamp(min=1)", ".clamp(min=1) + 0 * view.student.full.square().sum().sqrt()")],
    ),
    "bfloat16 terms": (
        "bfloat16",
        "torch.bfloat16",
        [(ERROR, '"error": (self.weight * error).to(view.student.full.dtype)')],
    ),
    "differences of bfloat16": (
        "bfloat16",
        "bring maps to float32",
        [
            (
                "student = self.adapter(view.student.full).float()",
                "student, teacher = 300 + self.adapter(view.student.full), (300 + view.taught().full).float()",
            )
        ],
    ),
    "the global stream moved": ("one-stream", "torch moved", [(", generator=view.generator", "")]),
    "the global stream read": (
        "one-stream",
        "another stream is read",
        [(ERROR, ERROR + " * (1 + torch.initial_seed() % 7)")],
    ),
    "a weight squared": ("weighted", "a weight is a factor", [(ERROR, '"error": self.weight**2 * error')]),
    "no weight": ("weighted", "no weight scales error", [(ERROR, '"error": error')]),
    "the teacher's attribute": ("needs-teacher", "view.taught()", [("view.taught().full", "view.teacher.full")]),
    "no teacher needed": (
        "needs-teacher",
        "works without",
        [("view.taught().full", "(view.teacher or view.student).full.detach()")],
    ),
    "a judge of the student": (
        "trained-apart",
        "detach one of the two",
        [("- self.centre)", "- student.mean((2, 3)))")],
    ),
    "an optimizer of strangers": (
        "trained-apart",
        "trainable one of the distiller's",
        [(JUDGE, "OwnOptimizer((nn.Parameter(torch.zeros(1)),), 0.001, (0.9, 0.99))")],
    ),
    "an idle optimizer": ("trained-apart", "no term trains", [(', "judge": judged.square().mean()}', "}")]),
    "an idle layer": ("whole-step", "get no gradient", [(BUFFER, BUFFER + "\n        self.idle = nn.Linear(2, 2)")]),
    "a gradient of 0": (
        "whole-step",
        "unused has the gradient 0",
        [
            (BUFFER, BUFFER + "\n        self.unused = nn.Parameter(torch.ones(1))"),
            (ERROR, ERROR + " + 0 * self.unused.sum()"),
        ],
    ),
    "state outside state_dict": (
        "resumed",
        "keep its state in buffers",
        [(BUFFER, "self.centre = torch.zeros(pair.num_classes)")],
    ),
    "a lambda": ("copies", "pickle", [(BUFFER, BUFFER + "\n        self.same = lambda x: x")]),
    "a stage that PSPNet lacks": (
        "every-pair",
        "Return the reason from skip",
        [(BUFFER, BUFFER + '\n        pair.teacher.stages["stage4"]')],
    ),
}
