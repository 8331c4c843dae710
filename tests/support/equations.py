r"""The equations of docs/reference-methods.md as TeX, what their letters are, and what a method reads and is tested by.

Written from the code of harness/distillers; tests/distillers compares each method with its equation in loops. Of TeX
only what both GitHub and latex2mathml convert: no `\\`, `\,`, `\{`, `<`, `&`, and a word is a `\text`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Equation(NamedTuple):
    """What the documentation in the code does not have as data.

    Attributes:
        loss: the sum of a method's terms; the weight that is the parameter `x` is `w_{\\text{x}}`.
        parts: what stands in it.
        letters: by letter what it is, in Markdown.
        reads: taps, and `labels`, that change a term with every term on and the other parameters at their defaults.
        oracles: METHOD/CONVENTION in tests/oracles/distillers/INDEX.json, or its beginning.
        tests: of the method's own equation, below tests/.
    """

    loss: str
    parts: tuple[str, ...] = ()
    letters: Mapping[str, str] = MappingProxyType({})
    reads: tuple[str, ...] = ()
    oracles: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


NOTATION = {
    "*S*, *T*": "student and teacher",
    "*n*, *i*, *k*, *c*": "one of *N* images of the global batch, *P* positions, *K* classes, *C* channels of the teacher's map; *j* and *l* too",
    "*z*": "class scores (logits) before the head's up-sampling",
    "*f*": "the map that `tap` names. The student's is resized (bilinear) to the teacher's size, as *z* is",
    "*w* with a name": "the parameter of that name",
    "*τ*": "temperature",
    "taps": "`stem`, `stage1`, `stage2`, ..., `last` (the deepest stage), `decoder` (before the classifier), `logits`",
}
"""Letters that every equation has in common."""

_SOFTMAX = r"q_{nik} = \frac{\exp(z_{nik} / \tau)}{\sum_{l} \exp(z_{nil} / \tau)}"
_KD = r"\sum_{n,i,k} q^T_{nik} \space \log \space \frac{q^T_{nik}}{q^S_{nik}}"
_ADVERSARIAL = r"L_{\text{adv}} = -\frac{1}{N M} \sum_{n} \sum_{m=1}^{M} D(z^S)_{nm}"
_CRITIC = (
    r"L_{\text{critic}} = \frac{1}{N M} \sum_{n,m} \left( D(z^S)_{nm} - D(z^T)_{nm} \right)"
    r" + \frac{\lambda}{N} \sum_{n} \left( \left\lVert \nabla_{u} \sum_{m} D(u)_{nm} \right\rVert_2 - 1 \right)^2"
)
_MEAN_SQUARE = r"\frac{1}{N C P} \sum_{n,c,i} \left( (A f^S)_{nci} - f^T_{nci} \right)^2"
_GENERATED = r"\frac{1}{N} \sum_{n,c,i} \left( G(m \odot A f^S)_{nci} - f^T_{nci} \right)^2"
_ATTENTION = r"a_{ni} = \frac{e_{ni}}{\lVert e_{n} \rVert_2}, \quad e_{ni} = \frac{1}{C} \sum_{c} f_{nci}^2"

_KD_AT_1 = "the loss of [`kd`](#kd) with weight and temperature 1, canonical"
_CRITICS_LETTERS = {
    "*D*": "the critic, with *M* outputs for an image; `critic` is *L*<sub>critic</sub>, unweighted, and trains *D* only",
    "*u*": "α *z*<sup>T</sup> + (1 - α) *z*<sup>S</sup>, α uniform in [0, 1] for each image",
    "*λ*": "`gradient_penalty`",
}
_HINGE = (
    r"L_{\text{hinge}} = \frac{1}{N M} \sum_{n,m} \left( \max(0, 1 + D(z^S)_{nm}) + \max(0, 1 - D(z^T)_{nm}) \right)"
)
_HINGE_LETTER = {
    "*L*<sub>hinge</sub>": "with `adversarial: hinge` it replaces the first sum of *L*<sub>critic</sub>; the penalty stays"
}
_ADAPTER = "1x1 convolution without bias from the student's width to the teacher's"

EQUATIONS: dict[str, Equation] = {
    "none": Equation("L = 0"),
    "kd": Equation(
        rf"L = w_{{\text{{weight}}}} \frac{{\tau^2}}{{N P}} {_KD}",
        (_SOFTMAX,),
        {"*q*": "probabilities of the classes", "*τ*": "`temperature`"},
        ("logits",),
        ("pixel_kd/",),
        ("distillers/test_logits.py::test_kd",),
    ),
    "fitnet": Equation(
        rf"L = w_{{\text{{weight}}}} {_MEAN_SQUARE} + w_{{\text{{kd}}}} L_{{\text{{kd}}}}",
        (),
        {"*A*": f"{_ADAPTER}, also where they are equal", "*L*<sub>kd</sub>": _KD_AT_1},
        ("decoder", "logits"),
        ("fitnet/cirkd",),
        ("distillers/test_features.py::test_fitnet",),
    ),
    "at": Equation(
        r"L = w_{\text{weight}} \sum_{f} \frac{1}{N P} \sum_{n,i} \left( a^S_{ni} - a^T_{ni} \right)^2"
        r" + w_{\text{kd}} L_{\text{kd}}",
        (_ATTENTION,),
        {
            "*f*": "the maps that `taps` names, each with its own *C*",
            "*e*": "is resized, not *f*",
            "*L*<sub>kd</sub>": _KD_AT_1,
        },
        ("decoder", "logits"),
        ("at/",),
        ("distillers/test_features.py::test_at",),
    ),
    "feature-kd": Equation(
        rf"L = w_{{\text{{weight}}}} {_MEAN_SQUARE}",
        (),
        {"*A*": f"{_ADAPTER}; identity where they are equal"},
        ("decoder",),
        ("fitnet/repdistiller",),
        ("distillers/test_features.py::test_feature_kd",),
    ),
    "skd": Equation(
        r"L = w_{\text{pixel}} L_{\text{pixel}} + w_{\text{pairwise}} L_{\text{pair}}"
        r" + w_{\text{holistic}} L_{\text{adv}}",
        (
            r"L_{\text{pixel}} = -\frac{1}{P} \sum_{n,i,k} q^T_{nik} \space \log \space q^S_{nik}",
            r"L_{\text{pair}} = \frac{1}{N V^2} \sum_{n} \sum_{u,v=1}^{V} \left( a^S_{nuv} - a^T_{nuv} \right)^2",
            r"a_{nuv} = \frac{g_{nu}^{\top} g_{nv}}{\lVert g_{nu} \rVert_2 \lVert g_{nv} \rVert_2}",
            _ADVERSARIAL,
            _CRITIC,
            _HINGE,
        ),
        {
            "*q*": "as in [`kd`](#kd), τ 1. With `convention: canonical` and `cirkd` *L*<sub>pixel</sub> is the loss of"
            " `kd`, canonical",
            "*g*": "the *V* nodes: *f* after max-pooling, by windows of `scale` times its sides. Their norms have no"
            " gradient. With `convention: cirkd` windows are 2x2 and norms have one",
            **_CRITICS_LETTERS,
            **_HINGE_LETTER,
        },
        ("decoder", "logits"),
        ("skd_pairwise/", "skd_holistic/", "skd_discriminator/"),
        (
            "distillers/test_relations.py::test_skd",
            "distillers/test_relations.py::test_the_holistic_term_is_the_critics_judgement",
        ),
    ),
    "ifvd": Equation(
        r"L = w_{\text{weight}} \frac{1}{N P} \sum_{n,i} b_{ni} \left( s^S_{ni} - s^T_{ni} \right)^2"
        r" + w_{\text{kd}} L_{\text{kd}} + w_{\text{adversarial}} L_{\text{adv}}",
        (
            r"s_{ni} = \frac{f_{ni}^{\top} m_{n y_{ni}}}{\lVert f_{ni} \rVert_2 \lVert m_{n y_{ni}} \rVert_2}",
            r"m_{nk} = \frac{\sum_{i} [y_{ni} = k] f_{ni}}{\sum_{i} [y_{ni} = k]}",
            rf"L_{{\text{{kd}}}} = \frac{{1}}{{N P K}} {_KD}",
        ),
        {
            "*y*": "the label of a position, resized to *f* by nearest neighbour",
            "*b*": "1 where there is a label, 0 where it is ignored",
            "*m*": "mean of *f* over the image's positions of a class; [ ] is 1 where it holds, else 0",
            "*q*": "as in [`kd`](#kd), τ 1. With `convention: canonical` *L*<sub>kd</sub> is that of `kd`, without 1 / *K*",
            "*L*<sub>adv</sub>": "as in [`skd`](#skd), and `critic` too, wgan-gp",
        },
        ("decoder", "logits", "labels"),
        ("ifvd/", "skd_holistic/ifvd"),
        (
            "distillers/test_relations.py::test_ifvd",
            "distillers/test_relations.py::test_the_holistic_term_is_the_critics_judgement",
        ),
    ),
    "cwd": Equation(
        r"L = w_{\text{logits}} L_{\text{cwd}}(z^S, z^T) + w_{\text{feature}} L_{\text{cwd}}(A f^S, f^T)",
        (
            r"L_{\text{cwd}}(x^S, x^T) = \frac{\tau^2}{N C} \sum_{n,c,i} q^T_{nci} \space \log \space \frac{q^T_{nci}}{q^S_{nci}}",
            r"q_{nci} = \frac{\exp(x_{nci} / \tau)}{\sum_{j} \exp(x_{ncj} / \tau)}",
        ),
        {
            "*q*": "the share of a position in its channel; of *z* the channels are the *K* classes",
            "*A*": f"{_ADAPTER}; identity where they are equal",
            "*τ*": "`tau`",
        },
        ("decoder", "logits"),
        ("cwd/",),
        ("distillers/test_logits.py::test_cwd",),
    ),
    "dsd": Equation(
        r"L = w_{\text{pixel}} L_{\text{psd}} + w_{\text{category}} L_{\text{csd}} + w_{\text{kd}} L_{\text{kd}}",
        (
            r"L_{\text{psd}} = \frac{2}{M (M - 1) N P} \sum_{u=1}^{M-1} \sum_{v=u+1}^{M} \sum_{n,i}"
            r" \left( r^S_{uvni} - r^T_{uvni} \right)^2",
            r"r_{uvn} = \frac{a_{vn} - a_{un}}{\lVert a_{vn} - a_{un} \rVert_2}",
            r"L_{\text{csd}} = \frac{1}{N K^2} \sum_{n,k,l} \left( g^S_{nkl} - g^T_{nkl} \right)^2",
            r"g_{nkl} = \sum_{i} q_{nki} q_{nli}",
            r"q_{nki} = \frac{\exp(\bar{z}_{nki} / \tau)}{\sum_{j} \exp(\bar{z}_{nkj} / \tau)}",
        ),
        {
            "*a*": "the attention ([`at`](#at)) of one of the *M* maps that `taps` names, resized to the teacher's last one",
            "*z̄*": "means of 2x2 windows of *z*; here *i* and *j* are windows",
            "*τ*": "`tau`",
            "*L*<sub>kd</sub>": _KD_AT_1,
        },
        ("last", "decoder", "logits"),
        ("dsd/",),
        (
            "distillers/test_features.py::test_pixel_wise_similarity",
            "distillers/test_logits.py::test_category_wise_similarity",
        ),
    ),
    "cirkd": Equation(
        r"L = w_{\text{batch}} L_{\text{b}} + w_{\text{pixel}} L_{\text{p}} + w_{\text{region}} L_{\text{r}}"
        r" + w_{\text{kd}} L_{\text{kd}}",
        (
            r"L_{\text{b}} = \frac{1}{N^2 P} \sum_{m,n} \sum_{i,j} r^T_{mnij} \space \log \space \frac{r^T_{mnij}}{r^S_{mnij}}",
            r"r_{mnij} = \frac{\exp(u_{mi}^{\top} u_{nj} / \tau)}{\sum_{l} \exp(u_{mi}^{\top} u_{nl} / \tau)}",
            r"L_{\text{p}} = \frac{\theta^2}{B} \sum_{(n,i)} \sum_{e} q^T_{nie} \space \log \space \frac{q^T_{nie}}{q^S_{nie}}",
            r"q_{nie} = \frac{\exp(v_{ni}^{\top} o_{e} / (\tau \theta))}{\sum_{l} \exp(v_{ni}^{\top} o_{l} / (\tau \theta))}",
        ),
        {
            "*u*": "*f* of a position (or the mean of a window of `pool` x `pool`), divided by its norm; each network has"
            " its own width",
            "*m*, *n*": "images of the micro-batch of one process, of which there are *N*",
            "*v*": "*f* divided by its norm; the student's after 1x1 convolution, batch normalisation, ReLU and 1x1"
            " convolution",
            "*o*": "entries of the queues of single positions: features of the teacher, drawn from every class",
            "*L*<sub>r</sub>": "*L*<sub>p</sub> with entries of the queues of class means",
            "(*n*, *i*)": "the *B* labelled positions; both terms are 0 without any",
            "*τ*, *θ*": "`tau`, `temperature`",
            "*L*<sub>kd</sub>": _KD_AT_1,
        },
        ("decoder", "logits", "labels"),
        ("cirkd_minibatch/", "cirkd_memory/"),
        (
            "distillers/test_relations.py::test_cirkd_within_the_batch",
            "distillers/test_memory.py::test_cirkd_against_its_queues",
        ),
    ),
    "dist": Equation(
        r"L = w_{\text{inter}} \tau^2 \left( 1 - \frac{1}{N P} \sum_{n,i} \rho(q^S_{ni}, q^T_{ni}) \right)"
        r" + w_{\text{intra}} \tau^2 \left( 1 - \frac{1}{K} \sum_{k} \rho(q^S_{k}, q^T_{k}) \right)",
        (
            r"\rho(x, y) = \frac{(x - \bar{x})^{\top} (y - \bar{y})}"
            r"{\lVert x - \bar{x} \rVert_2 \lVert y - \bar{y} \rVert_2}",
            _SOFTMAX,
        ),
        {
            "*ρ*": "Pearson's correlation: over the *K* classes of a position, and over the *N P* positions of a class; 0"
            " where one of the two is constant",
            "*τ*": "`tau`",
        },
        ("logits",),
        ("dist/",),
        ("distillers/test_logits.py::test_dist",),
    ),
    "mgd": Equation(
        rf"L = w_{{\text{{weight}}}} {_GENERATED} + w_{{\text{{cwd}}}} L_{{\text{{cwd}}}}(z^S, z^T)",
        (),
        {
            "*m*": "0 at a position with the probability `dropped`, else 1, for all channels; drawn anew in each step",
            "*A*": "1x1 convolution with bias from the student's width to the teacher's; identity where they are equal",
            "*G*": "3x3 convolution, ReLU, 3x3 convolution",
            "1 / *N*": "1 / (*N C P*) with `convention: canonical`",
            "*L*<sub>cwd</sub>": "as in [`cwd`](#cwd), at `tau`",
        },
        ("last", "logits"),
        ("mgd/",),
        ("distillers/test_features.py::test_mgd",),
    ),
    "af-dcd": Equation(
        rf"L = w_{{\text{{feature}}}} {_GENERATED} + w_{{\text{{contrast}}}} L_{{\text{{c}}}}"
        r" + w_{\text{kd}} L_{\text{kd}}",
        (
            r"L_{\text{c}} = -\frac{1}{N P} \sum_{n,i} \sum_{g} \space \log \space \frac{E_{igig}}"
            r"{E_{igig} + \sum_{j} \sum_{h \neq g} E_{igjh}}",
            r"E_{igjh} = \exp \left( -\frac{\lVert s_{ig} - t_{jh} \rVert_1}{\tau} \right)",
        ),
        {
            "*m*, *A*, *G*, 1 / *N*": "as in [`mgd`](#mgd); *G* has two branches with `enhanced_projector`",
            "*s*, *t*": "*G*(*m A f*<sup>S</sup>) and *f*<sup>T</sup> after max-pooling by `pool`; here *i* is one of the *P*"
            " pooled positions in complete patches",
            "*g*, *h*": "one of `groups` groups of channels",
            "*j*": "the positions of the patch of *i*, itself included",
            "*τ*": "`tau`",
            "*L*<sub>kd</sub>": _KD_AT_1,
        },
        ("decoder", "logits"),
        ("afdcd/",),
        (
            "distillers/test_features.py::test_reconstruction_of_af_dcd",
            "distillers/test_relations.py::test_omni_contrast",
            "distillers/test_relations.py::test_af_dcd",
        ),
    ),
    "freekd": Equation(
        r"L = w_{\text{weight}} \sum_{d=1}^{3} \frac{1}{3 N C P_d} \sum_{n,c,i} m_{dni} \sum_{o=1}^{3}"
        r" \left\lvert B_{do}(A f^S)_{nci} - B_{do}(f^T)_{nci} \right\rvert",
        (
            r"m_{dni} = \frac{1}{R} \sum_{r=1}^{R} \sigma \left( \sum_{c} t_{drc} \sum_{o=1}^{3} B_{do}(f^T)_{nci}"
            r" \right)",
            r"\sigma(x) = \frac{1}{1 + e^{-x}}",
        ),
        {
            "*B*<sub>do</sub>": "the detail band *o* of level *d* of the orthonormal Haar transform, with *P*<sub>d</sub>"
            " positions",
            "*t*": "the *R* vectors of a level that `tokens` counts: random, and trained only with `train_tokens`",
            "*A*": f"{_ADAPTER}; identity where they are equal",
        },
        ("decoder",),
        ("freekd/",),
        ("distillers/test_features.py::test_freekd",),
    ),
    "kt": Equation(
        r"L = w_{\text{logits}} L_{\text{div}}(z^S, z^T) + w_{\text{feature}} \frac{C}{C_S} L_{\text{div}}(A f^S, f^T)"
        r" + w_{\text{kd}} L_{\text{kd}}",
        (
            r"L_{\text{mse}}(x^S, x^T) = \frac{1}{N C} \sum_{n,c,i} \delta_{nci}^2",
            r"\delta_{nci} = \frac{x^S_{nci}}{\lVert x^S_{ni} \rVert_2} - \frac{x^T_{nci}}{\lVert x^T_{ni} \rVert_2}",
            r"L_{\text{l1}}(x^S, x^T) = \frac{1}{N C} \sum_{n,c,i}"
            r" \left\lvert \frac{x^S_{nci}}{\lVert x^S_{nc} \rVert_2} - \frac{x^T_{nci}}{\lVert x^T_{nc} \rVert_2} \right\rvert",
            r"L_{\text{huber}}(x^S, x^T) = \frac{\Delta}{N C} \sum_{n,c,i}"
            r" \left( \lvert \delta_{nci} \rvert - \frac{\Delta}{2} \right)",
        ),
        {
            "*L*<sub>div</sub>": "by `divergence`: kl is *L*<sub>cwd</sub> of [`cwd`](#cwd) at `tau`. huber is Δ"
            " *L*<sub>mse</sub> unless the mean of all |*δ*| is above Δ",
            "Δ": "`delta`",
            "*A*": f"{_ADAPTER}; identity where they are equal",
            "*C*<sub>S</sub>": "the student's width before *A*; the factor is 1 with `convention: canonical`",
            "*L*<sub>kd</sub>": "the loss of [`kd`](#kd) with weight 1 and the temperature `tau`, canonical",
        },
        ("decoder", "logits"),
        ("kt/",),
        ("distillers/test_logits.py::test_kt",),
    ),
    "sstkd": Equation(
        r"L = w_{\text{re}} L_{\text{re}} + w_{\text{str}} L_{\text{str}} + w_{\text{sta}} L_{\text{sta}}"
        r" + w_{\text{adv}} L_{\text{adv}}",
        (
            rf"L_{{\text{{re}}}} = \frac{{\tau^2}}{{N P}} {_KD}",
            r"L_{\text{str}} = \frac{1}{M} \sum_{m=1}^{M} \left( b^S_m - b^T_m \right)^2",
            r"b = \text{CDM}(f)",
            r"L_{\text{sta}} = \frac{1}{N R Q} \sum_{n} \sum_{r=1}^{R} \sum_{i=1}^{Q}"
            r" \left( e^S_{nri} - e^T_{nri} \right)^2",
            r"e = \text{DTIEM}(f)",
        ),
        {
            "*f*": "the maps that `stages` names, resized to `stride` and concatenated; the student's then goes through a"
            " 1x1 convolution to the teacher's width and batch normalisation",
            "*w*<sub>re</sub>": "`w_re`, and so on",
            "*q*": "as in [`kd`](#kd)",
            "*b*": "the *M* coefficients of all subbands of the [contourlet transform](sstkd.md#structural-texture-the-contourlet-transform),"
            " without the low-pass map",
            "*e*": "[equalised intensities](sstkd.md#statistical-texture-dtiem) at the *Q* positions of each of *R* regions."
            " With `variant: graph` vectors; `congruence` adds its weight times the mean square of the difference of"
            " cumulative distributions",
            "1 / *M*, 1 / (*N R Q*)": "other factors with `reduction: positions` ([which](sstkd.md#reduction))",
            "*L*<sub>adv</sub>": "as in [`skd`](#skd), and `critic` too",
            "*τ*": "`temperature`",
        },
        ("stage1", "stage2", "logits"),
        (
            *("skd_holistic/", "skd_discriminator/"),
            *("stlnet_qco_1d/", "stlnet_qco_2d/", "stlnet_tem/", "stlnet_ptfem/", "stlnet_stl/"),
        ),
        (
            "sstkd/test_losses.py::test_structural_values_and_gradients",
            "sstkd/test_losses.py::test_statistical_values_and_gradients",
            "sstkd/test_dtiem.py::test_values_and_gradients_against_the_dense_equations",
            "conformance/test_controls.py::test_the_response_term_is_the_other_methods_loss",
        ),
    ),
}
