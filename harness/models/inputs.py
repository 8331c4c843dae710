"""Input normalisation of an encoder: the per-channel mean and standard deviation of its pretraining."""

import timm

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per channel, RGB, in 0..255."""

IMAGENET: Statistics = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
"""RGB mean for networks converted from Caffe, which take BGR images and do not divide by a standard deviation."""
# From pretrained-models.pytorch, the source of segmentation-models-pytorch.
_HALF: Statistics = ((127.5,) * 3, (127.5,) * 3)
_DPN: Statistics = ((124.0, 117.0, 104.0), (1 / 0.0167,) * 3)
_OTHERS = {"xception": _HALF, "inceptionv4": _HALF, "inceptionresnetv2": _HALF, "dpn": _DPN}


def input_statistics(encoder: str | None) -> Statistics:
    """Mean and standard deviation of the images that `encoder` was pretrained on.

    From timm's configuration for `tu-NAME`; ImageNet's for encoders of segmentation-models-pytorch, with a few
    exceptions. Needs no internet access.

    Args:
        encoder: as in an experiment file; ImageNet's for None.
    """
    if encoder is None:
        return IMAGENET
    if encoder.startswith("tu-"):
        record = timm.get_pretrained_cfg(encoder[3:])
        if record is None:
            return IMAGENET
        mean, std = (tuple(255.0 * value for value in values) for values in (record.mean, record.std))
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
    return next((found for name, found in _OTHERS.items() if encoder.startswith(name)), IMAGENET)
