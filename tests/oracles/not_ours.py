"""Conventions of the authors' code that no map of ours gives, and why; plain data."""

_MSE_MODE = "squared differences of softmaxes: a mode of CriterionCWD that no published run uses"
_SIMILARITY = "another function of the cosines: a class of branch cvpr_19 that nothing calls"
NOT_OURS: dict[tuple[str, str], str] = {
    ("cwd", "torchdistiller-channel-mse"): _MSE_MODE,
    ("cwd", "torchdistiller-spatial-mse"): _MSE_MODE,
    ("cwd", "torchdistiller-channel_mean-mse"): _MSE_MODE,
    ("skd_pairwise", "skd-cvpr19-softmax"): _SIMILARITY,
    ("skd_pairwise", "skd-cvpr19-sigmoid"): _SIMILARITY,
}
