"""What the conformance tests know of each method: smaller sizes, what is not asked of it, and values that are wrong."""

from dataclasses import dataclass
from math import inf, nan
from typing import Any

from harness.distillers import METHODS, Distiller
from harness.distillers._sum import Sum
from harness.experiment.method import Method
from harness.taps import Pair
from harness.testing import Case
from harness.testing.made_up import MAIN
from harness.training.build import build_method

# Sizes that cost time and change no property, and terms that are off by default; `test_default_values` builds with the
# real ones.
SMALL: dict[str, dict[str, Any]] = {
    "skd": {"critic_width": 8},
    "ifvd": {"critic_width": 8},
    "cirkd": {"pixel_memory": 200, "region_memory": 8, "pixel_contrast": 64, "region_contrast": 32},
    "sstkd": {"critic_width": 8, "w_adv": 0.01},
}
_CRITIC = "the critic prefers what it was trained to prefer; an untrained one has no reason to prefer the teacher"
WAIVED: dict[str, dict[str, str]] = {
    "skd": {"minimum:adversarial": _CRITIC},
    "ifvd": {"minimum:adversarial": _CRITIC},
    "sstkd": {"minimum:adversarial": _CRITIC},
    "af-dcd": {
        "minimum:contrast": "a contrast falls further when a student that equals the teacher leaves the other groups"
    },
}
# Terms that `minimum` compares, so that none drops out unnoticed.
AT_THE_TEACHER: dict[str, set[str]] = {
    "none": set(),
    "kd": {"kd"},
    "fitnet": {"fitnet", "kd"},
    "at": {"at", "kd"},
    "feature-kd": {"feature"},
    "skd": {"pixel", "pairwise"},
    "ifvd": {"ifv", "kd"},
    "cwd": {"cwd"},
    "dsd": {"psd", "csd", "kd"},
    "cirkd": {"batch", "pixel", "region", "kd"},
    "dist": {"inter", "intra"},
    "mgd": {"mgd", "cwd"},
    "af-dcd": {"feature"},
    "freekd": {"freekd"},
    "kt": {"kt_logits", "kt_feature", "kd"},
    "sstkd": {"response", "structural", "statistical"},
}
# Terms that labels change, and that ignored pixels must therefore leave alone.
WITH_LABELS: dict[str, set[str]] = {"ifvd": {"ifv"}, "cirkd": {"pixel", "region"}}

_TAP = ({"tap": "stage9"}, "stage9; there are stem, stage1")
_CRITIC_VALUES = [
    ({"critic_width": 0}, "at least 1"),
    ({"critic_lr": 0.0}, "above 0"),
    ({"critic_lr": inf}, "above 0"),
    ({"gradient_penalty": nan}, "finite"),
    ({"critic_input": "nobody"}, "'batchnorm', 'tanh'"),
]
# Beside the tuned values, which the property `refusals` tries: what is given, and what the message says is allowed.
WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "none": [],
    "kd": [
        ({"weight": 0.0}, "above 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"convention": "nobody"}, "'canonical', 'skd', 'ifvd', 'mmrazor'"),
        ({"temperature": 2.0, "convention": "skd"}, "temperature 1"),
    ],
    "fitnet": [({"weight": 0.0}, "above 0"), ({"kd": -1.0}, "not negative"), _TAP],
    "at": [
        ({"weight": 0.0}, "above 0"),
        ({"taps": ()}, "at least one"),
        ({"taps": ("decoder", "stage9")}, "there are stem, stage1"),
    ],
    "feature-kd": [({"weight": 0.0}, "above 0"), _TAP],
    "skd": [
        ({"scale": 0.0}, "above 0"),
        ({"scale": 1.5}, "(0, 1]"),
        ({"convention": "nobody"}, "'skd', 'canonical', 'cirkd'"),
        ({"adversarial": "lsgan"}, "'wgan-gp', 'hinge'"),
        _TAP,
        *_CRITIC_VALUES,
    ],
    "ifvd": [({"weight": 0.0}, "above 0"), ({"convention": "nobody"}, "'ifvd', 'canonical'"), _TAP, *_CRITIC_VALUES],
    "cwd": [
        ({"logits": -1.0}, "not negative"),
        ({"feature": nan}, "not negative"),
        ({"tau": -2.0}, "above 0"),
        ({"tau": 0.0}, "above 0"),
        ({"convention": "nobody"}, "'canonical', 'cirkd', 'mmseg'"),
        ({"tap": "stage9", "feature": 50.0}, "there are stem, stage1"),
    ],
    "dsd": [
        ({"tau": 0.0}, "above 0"),
        ({"taps": ("logits",)}, "at least two"),
        ({"taps": ("logits", "stage9")}, "there are stem, stage1"),
    ],
    "cirkd": [
        ({"kd": -1.0}, "not negative"),
        ({"tau": 0.0}, "above 0"),
        ({"temperature": inf}, "above 0"),
        *(
            ({name: 0}, "above 0")
            for name in ("pool", "pixel_memory", "region_memory", "pixel_contrast", "region_contrast", "enqueued")
        ),
        ({"enqueued": 30, "pixel_memory": 20}, "at most pixel_memory 20"),
        ({"convention": "nobody"}, "'canonical', 'cirkd'"),
        ({"pool": 2, "auto_pool": True}, "pool is 1; given 2"),
        _TAP,
    ],
    "dist": [({"tau": 0.0}, "above 0")],
    "mgd": [
        ({"weight": 0.0}, "above 0"),
        ({"tau": 0.0}, "above 0"),
        ({"dropped": 1.0}, "[0, 1)"),
        ({"dropped": -0.1}, "[0, 1)"),
        ({"convention": "nobody"}, "'mgd', 'canonical'"),
        _TAP,
    ],
    "af-dcd": [
        ({"kd": -1.0}, "not negative"),
        ({"tau": 0.0}, "above 0"),
        ({"groups": 0}, "multiple of groups"),
        ({"groups": 3}, "multiple of groups"),
        ({"groups": -4}, "multiple of groups"),
        ({"pool": -1}, "0 for no pooling"),
        ({"patch": (0, 4)}, "above 0"),
        ({"dropped": 1.0}, "[0, 1)"),
        ({"convention": "nobody"}, "'af-dcd', 'canonical'"),
        _TAP,
    ],
    "freekd": [({"weight": 0.0}, "above 0"), ({"tokens": 0}, "at least 1"), _TAP],
    "kt": [
        ({"tau": 0.0}, "above 0"),
        ({"delta": 0.0}, "above 0"),
        ({"divergence": "nobody"}, "'kl', 'mse', 'l1', 'huber'"),
        ({"convention": "nobody"}, "'kt', 'canonical'"),
        _TAP,
    ],
    "sstkd": [
        ({"temperature": 0.0}, "positive"),
        ({"stages": ()}, "at least one"),
        ({"stages": ("stage9",)}, "it has stem, stage1"),
        ({"stride": 0}, "at least 1"),
        ({"levels": ()}, "one or more"),
        ({"quantization_levels": 1}, "at least 2"),
        ({"quantization_iterations": -1}, "at least 2 and 0"),
        ({"quantization_relaxation": 1.0}, "between 0 and 1"),
        ({"quantization_min_range": -1.0}, "it must"),
        ({"clip_limit": 0.5}, "at least 1"),
        ({"congruence": -1.0}, "not be negative"),
        ({"regions": -1}, "at least 0"),
        ({"region_importance": "colour"}, "'texture', 'uncertainty'"),
        ({"critic_width": 0, "w_adv": 0.01}, "at least 1"),
        ({"critic_lr": 0.0}, "positive number"),
        ({"critic_betas": (0.9,)}, "two in [0, 1)"),
        ({"gradient_penalty": -1.0}, "not be negative"),
        ({"graph_weights": "graph.safetensors"}, "graph_sha256"),
        *(
            ({name: "nobody", "w_adv": 0.01}, f"'{allowed}'")
            for name, allowed in (
                ("pyramid", "pkva"),
                ("directional", "pkva"),
                ("boundary", "periodic"),
                ("band_weights", "equal"),
                ("variant", "graph"),
                ("adversarial", "hinge"),
                ("reduction", "positions"),
                ("critic_input", "tanh"),
            )
        ),
    ],
}


# Other conventions, taps and switches than the defaults.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("kd", {"convention": "skd"}),
    ("kd", {"convention": "ifvd"}),
    ("kd", {"convention": "mmrazor", "temperature": 4.0}),
    ("fitnet", {"tap": "last", "kd": 0.0}),
    ("at", {"taps": ("stage1", "last", "decoder")}),
    ("skd", {"convention": "canonical", "critic_input": "tanh"}),
    ("skd", {"convention": "cirkd", "adversarial": "hinge"}),
    ("ifvd", {"convention": "canonical", "tap": "stage2", "critic_input": "tanh"}),
    ("cwd", {"feature": 50.0}),
    ("cwd", {"feature": 50.0, "convention": "cirkd"}),
    ("cwd", {"feature": 5.0, "convention": "mmseg", "tau": 1.0}),
    ("dsd", {"taps": ("stage1", "stage2", "last", "logits")}),
    ("cirkd", {"pool": 2, "temperature": 2.0}),
    ("cirkd", {"convention": "cirkd"}),
    ("cirkd", {"auto_pool": True}),
    ("dist", {"tau": 4.0}),
    ("mgd", {"convention": "canonical", "dropped": 0.0}),
    ("af-dcd", {"convention": "canonical", "kd": 1.0}),
    ("af-dcd", {"enhanced_projector": True, "pool": 0}),
    ("freekd", {"train_tokens": True}),
    ("kt", {"divergence": "mse"}),
    ("kt", {"divergence": "l1"}),
    ("kt", {"divergence": "huber"}),
    ("kt", {"divergence": "huber", "delta": 1e-3}),
    ("sstkd", {"regions": 0, "adversarial": "hinge", "congruence": 0.5}),
    ("sstkd", {"region_importance": "uncertainty", "stages": ("stage1",), "clip_limit": None}),
    ("sstkd", {"reduction": "positions", "critic_input": "tanh"}),
]
_OWN_DEFECT = {"ignored-pixels:pixel": "the authors enqueue the image's first pixels, whether they have a label or not"}


def case(method: str, **changed: Any) -> Case:
    """A method of the table at small sizes."""
    waived = WAIVED.get(method, {}) | (_OWN_DEFECT if method == changed.get("convention") == "cirkd" else {})
    return Case(METHODS[method], SMALL.get(method, {}) | changed, waived)


@dataclass(frozen=True)
class SumCase(Case):
    """The sum of several methods of the table, at small sizes, built as a run builds it."""

    names: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return "+".join(self.names)

    @property
    def method(self) -> Method:
        return Method.summed([Method(name=name, parameters=SMALL.get(name, {})) for name in self.names])

    def build(self, pair: Pair = MAIN, seed: int = 0) -> Distiller:
        return build_method(self.method, pair, seed).train()


def sum_of(*names: str) -> SumCase:
    """A sum of methods of the table."""
    return SumCase(Sum, names=names)
