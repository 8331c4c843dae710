"""The trained embedding before CDM and DTIEM: its equation, its sizes, where it is applied and what it refuses."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from harness.distillers.sstkd import SSTKD
from harness.files import sha256
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View
from sstkd import CDM, DTIEM, SSTKDLoss, TextureEmbedding, TextureHead, statistical_loss, structural_loss, whole_map
from sstkd.embedding import WIDTHS


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def head_of(channels=6, classes=4, steps=1, **sizes):
    """A head in float64 after a step in train mode."""
    torch.manual_seed(0)
    head = TextureHead(channels, classes, **sizes).double().train()
    for step in range(steps):
        head(random(2, channels, 16, 16, seed=step))
    return head


def embedded(module, x):
    """The equation in numpy float64, with the statistics of eval mode."""
    own = {name: value.detach().numpy() for name, value in module.state_dict().items()}

    def normalised(y, name):
        mean, var, weight, bias = (
            own[f"{name}.{key}"].reshape(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return np.maximum((y - mean) / np.sqrt(var + 1e-5) * weight + bias, 0)

    first = normalised(np.einsum("dc,nchw->ndhw", own["first.weight"][:, :, 0, 0], x), "first_norm")
    padded = np.pad(first, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = x.shape[2:]
    second = sum(
        np.einsum("dc,nchw->ndhw", own["second.weight"][:, :, i, j], padded[:, :, i : i + h, j : j + w])
        for i in range(3)
        for j in range(3)
    )
    return normalised(second, "second_norm")


def test_the_equation():
    frozen = head_of(structural_embedding=5).structural_embedding.frozen()
    x = random(2, 6, 7, 5).requires_grad_()
    np.testing.assert_allclose(frozen(x).detach().numpy(), embedded(frozen, x.detach().numpy()), rtol=1e-10, atol=1e-13)
    assert torch.autograd.gradcheck(lambda y: frozen(y).square().sum(), (x,))


def test_the_published_sizes():
    """1.24 M and 2.80 M parameters, 10.9 and 23.73 G MACs with the transforms, at 512 x 1024 and stride 8."""
    for part, parameters, billions in (("structural", 1.24, 10.9), ("statistical", 2.80, 23.73)):
        with torch.device("meta"):
            module = TextureEmbedding(768, WIDTHS[part])
        assert round(sum(p.numel() for p in module.parameters()) / 1e6, 2) == parameters
        macs = sum(p.numel() for p in module.parameters() if p.ndim == 4) * 64 * 128 / 1e9
        assert 0.9 * billions < macs < billions


def test_without_embeddings_the_modules_have_no_parameters():
    loss = SSTKDLoss(w_adv=0.0)
    assert not list(loss.parameters()) and loss.structural_embedding is None and loss.statistical_embedding is None
    torch.manual_seed(0)
    plain = TextureHead(6, 4)
    assert not [name for name in plain.state_dict() if "embedding" in name]
    assert plain.classify.in_channels == 64 and plain.project[0].in_channels == 6


@pytest.mark.parametrize("sizes", [(5, 0), (0, 7), (5, 7)])
def test_the_head_trains_the_embeddings(sizes):
    widths = dict(zip(("structural", "statistical"), sizes, strict=True))
    head = head_of(steps=0, **{f"{part}_embedding": width for part, width in widths.items()})
    x = random(2, 6, 8, 8)
    labels = torch.randint(4, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    F.cross_entropy(head(x), labels).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())
    for part, width in widths.items():
        found = TextureEmbedding.from_state({f"head.{k}": v for k, v in head.state_dict().items()}, part)
        if not width:
            assert found is None
            continue
        assert (found.channels, found.width) == (6, width)
        module = getattr(head, f"{part}_embedding").eval()
        torch.testing.assert_close(found.double().eval()(x), module(x), rtol=0, atol=0)


def test_the_loss_compares_embedded_features():
    head = head_of(structural_embedding=5, statistical_embedding=7)
    parts = {f"{name}_embedding": getattr(head, f"{name}_embedding") for name in ("structural", "statistical")}
    loss = SSTKDLoss(w_re=0.0, w_adv=0.0, w_str=2.0, w_sta=3.0, regions=0, **parts).double().train()
    student, teacher = random(2, 6, 16, 16, seed=1).requires_grad_(), random(2, 6, 16, 16, seed=2)
    scores = random(2, 4, 8, 8)
    terms = loss(student, teacher, scores, scores)
    ours, theirs = (
        [torch.from_numpy(embedded(module, x.detach().numpy())) for module in parts.values()]
        for x in (student, teacher)
    )
    want = 2 * structural_loss(CDM()(ours[0]), CDM()(theirs[0]))
    torch.testing.assert_close(terms["structural"], want, rtol=1e-9, atol=0)
    dtiem, everywhere = DTIEM(), whole_map(2, 16, 16, student.device)
    want = 3 * statistical_loss(dtiem(ours[1], everywhere), dtiem(theirs[1], everywhere))
    torch.testing.assert_close(terms["statistical"], want, rtol=1e-9, atol=0)
    sum(terms.values()).backward()
    assert student.grad.abs().max() > 0
    assert not [name for name, p in loss.named_parameters() if p.requires_grad]
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(student, teacher, scores, scores)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items()), "frozen in train mode"
    assert not any(module.training for module in loss.structural_embedding.modules())
    assert head.structural_embedding.training, "the head's own is left alone"


def test_gradients_through_the_embedding():
    head = head_of(channels=3, structural_embedding=4)
    loss = SSTKDLoss(
        w_re=0.0, w_adv=0.0, w_sta=0.0, cdm=CDM((1, 2)), structural_embedding=head.structural_embedding
    ).double()
    teacher, scores = random(1, 3, 8, 8, seed=2), random(1, 4, 8, 8)
    student = random(1, 3, 8, 8, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, scores, scores)["structural"], (student,))


def network(one, two):
    stages = {"stage1": TapInfo(one, 4), "stage2": TapInfo(two, 8)}
    return NetworkInfo(stages, TapInfo(8, 8), TapInfo(5, 8))


PAIR = Pair(network(4, 3), network(6, 5), 5)


def taps(one, two, seed):
    maps = {"stage1": random(2, one, 12, 12, seed=seed), "stage2": random(2, two, 6, 6, seed=seed + 1)}
    scores = random(2, 5, 6, 6, seed=seed + 2)
    return Taps(maps, random(2, 8, 6, 6), scores, scores)


def test_the_distiller_reads_embeddings_from_a_file(tmp_path):
    head = head_of(channels=11, statistical_embedding=7)
    path = tmp_path / "head.safetensors"
    save_file({f"teacher.{name}": value for name, value in head.state_dict().items()}, path)
    weights = {"embedding_weights": str(path), "embedding_sha256": sha256(path)}
    given = {"w_adv": 0.0, "w_re": 0.0, "regions": 0}
    distiller = SSTKD(PAIR, **given, **weights).double()
    assert distiller.loss.structural_embedding is None, "the file has none for it"
    view = View(taps(4, 3, 0), taps(6, 5, 3), torch.zeros(2, 48, 48, dtype=torch.long), 0.0, torch.Generator())
    ours = distiller.adapter(distiller._low_level(view.student, (6, 6))).detach().numpy()
    theirs = distiller._low_level(view.taught(), (6, 6)).numpy()
    module, dtiem, everywhere = head.statistical_embedding, DTIEM(), whole_map(2, 6, 6, torch.device("cpu"))
    a, b = (dtiem(torch.from_numpy(embedded(module, x)), everywhere) for x in (ours, theirs))
    torch.testing.assert_close(distiller(view)["statistical"], 1.15 * statistical_loss(a, b), rtol=1e-6, atol=1e-9)
    assert not [name for name, p in distiller.named_parameters() if p.requires_grad and "embedding" in name]
    with pytest.raises(
        ValueError, match=r"no embedding for the structural\. Train the teacher with sstkd\.TextureHead"
    ):
        SSTKD(PAIR, w_sta=0.0, **given, **weights)
    with pytest.raises(ValueError, match="takes 11 channels; the teacher's stage1 have 6"):
        SSTKD(PAIR, stages=("stage1",), **given, **weights)
    with pytest.raises(ValueError, match="give embedding_sha256 too"):
        SSTKD(PAIR, embedding_weights=str(path))
    with pytest.raises(ValueError, match="give embedding_weights too"):
        SSTKD(PAIR, embedding_sha256=sha256(path))


def test_refusals():
    with pytest.raises(ValueError, match=r"the embedding has random weights\. Train the teacher"):
        SSTKDLoss(w_adv=0.0, structural_embedding=TextureEmbedding(6, 4))
    with pytest.raises(ValueError, match=r"features must be \(N, 6, H, W\), got \(2, 5, 8, 8\)"):
        TextureEmbedding(6, 4)(torch.zeros(2, 5, 8, 8))
    for channels, width in ((0, 4), (6, -1), (6, 2.5)):
        with pytest.raises(ValueError, match="integers, at least 1, are needed"):
            TextureEmbedding(channels, width)
    state = TextureEmbedding(6, 4).state_dict()
    twice = {f"{where}.structural_embedding.{k}": v for where in "ab" for k, v in state.items()}
    with pytest.raises(ValueError, match="2 structural embeddings among"):
        TextureEmbedding.from_state(twice, "structural")
    broken = {f"structural_embedding.{k}": v for k, v in state.items() if k != "second.weight"}
    with pytest.raises(ValueError, match="structural embedding does not fit"):
        TextureEmbedding.from_state(broken, "structural")
    with pytest.raises(ValueError, match="part is 'colour'; allowed: 'structural', 'statistical'"):
        TextureEmbedding.from_state(broken, "colour")
