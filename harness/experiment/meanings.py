"""The answer to an unknown name: what it means elsewhere and is called here, or else the name that is spelled like it.

`MEANINGS` is the only table of such words, for methods, their parameters, keys of experiment files, datasets,
networks and commands.
"""

import difflib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple


class Meaning(NamedTuple):
    """Words of other projects, and what they mean here."""

    words: str
    """Separated by spaces, in small letters, with `_` for `-`."""
    here: str
    """Names, of which the first that is allowed where the word stands is answered; one with a dot is a key path of
    an experiment file, which is answered wherever a key is unknown."""
    remark: str = ""
    """Follows the answer."""


IN_STEPS = "an epoch is (images of train) / batch_size steps"
MEANINGS = tuple(
    Meaning(*row)
    for row in (
        # Methods.
        ("hinton vanilla vanilla_kd pixel_wise pixelwise pixel_kd logit_kd logits_kd soft_target soft_targets", "kd"),
        ("response response_kd kl kl_div kldiv kldivloss kdloss", "kd"),
        ("channel_wise channelwise channel cwd_logits cwd_logit channelwisedivergence", "cwd"),
        ("cwd_feature cwd_fea cwd_features", "cwd", "with {feature: 50, logits: 0}"),
        ("hint hints hintons fitnets fitnet_kd", "fitnet"),
        ("mimic mimicking feature features feature_mimic l2 mse mse_feature feature_l2", "feature-kd"),
        ("attention attention_transfer atloss", "at"),
        ("structured structural structure pairwise pair_wise holistic adversarial", "skd"),
        ("intra_class intraclass ifv", "ifvd"),
        ("double_similarity psd csd", "dsd"),
        ("cross_image relational cirkdv2 cirkd_v2", "cirkd"),
        ("correlation pearson stronger_teacher dist_kd distloss", "dist"),
        ("masked masked_generative generative", "mgd"),
        ("contrastive dense_contrastive afdcd dcd", "af-dcd"),
        ("frequency wavelet", "freekd"),
        ("tailoring knowledge_tailoring", "kt"),
        ("texture statistical stkd", "sstkd"),
        ("baseline student student_only supervised scratch no_kd no_distillation ce cross_entropy", "none"),
        # Parameters of methods.
        ("temperature tau t temp kd_temperature", "temperature tau"),
        ("contrast_temperature", "tau"),
        ("contrast_kd_temperature", "temperature"),
        ("weight loss_weight lambda alpha lam lambda_ w factor coefficient", "weight logits"),
        ("lambda_kd kd_weight kd_loss_weight kd_factor", "kd weight"),
        ("lambda_cwd_logit lambda_cwd_logits logits_weight", "logits"),
        ("lambda_cwd_fea lambda_cwd_feature feature_weight", "feature"),
        ("lambda_skd lambda_pair lambda_pa pair_wise", "pairwise"),
        ("lambda_pi lambda_pixel pixel_wise lambda_psd lambda_memory_pixel", "pixel"),
        ("lambda_adv lambda_ho adv_weight", "holistic w_adv adversarial"),
        ("lambda_csd", "category"),
        ("lambda_minibatch_pixel", "batch"),
        ("lambda_memory_region", "region"),
        ("lambda_ifv lambda_fitnet lambda_at alpha_mgd", "weight"),
        ("beta inter_loss_weight", "inter"),
        ("gamma intra_loss_weight", "intra"),
        ("lambda_mgd mask_ratio drop_ratio", "dropped"),
        ("pixel_memory_size", "pixel_memory"),
        ("region_memory_size", "region_memory"),
        ("pixel_contrast_size", "pixel_contrast"),
        ("region_contrast_size", "region_contrast"),
        ("lambda_gp", "gradient_penalty"),
        ("layer layers hook module_path feature_layer", "tap taps stages"),
        # The recipe.
        ("lr learning_rate base_lr initial_lr", "lr train.optimizer.lr"),
        ("lr_mult encoder_lr backbone_lr", "train.optimizer.encoder_lr_factor"),
        ("momentum", "train.optimizer.momentum"),
        ("wd weight_decay", "train.optimizer.weight_decay"),
        ("optim optimiser optim_wrapper optimizer_config", "train.optimizer"),
        ("scheduler lr_scheduler lr_config param_scheduler lr_policy", "train.schedule"),
        ("warmup warmup_iters warmup_iterations", "train.schedule.warmup_steps"),
        ("warmup_epochs", "train.schedule.warmup_steps", IN_STEPS),
        ("iterations iters max_iters max_iterations num_iterations total_iters num_iters max_steps", "train.steps"),
        ("epochs epoch max_epochs num_epochs n_epochs total_epochs", "train.steps", IN_STEPS),
        ("batch bs batch_size train_batch_size imgs_per_gpu", "train.batch_size"),
        ("samples_per_gpu", "train.batch_size", "it counts the images of all GPUs"),
        ("val_batch_size test_batch_size", "train.eval_batch_size"),
        ("crop crop_size random_crop input_size image_size img_size", "train.augment.crop_hw", "[height, width]"),
        ("augmentation augmentations transforms pipeline train_pipeline", "train.augment"),
        ("scale_range ratio_range random_scale multi_scale resize", "train.augment.scale"),
        ("hflip mirror random_flip horizontal_flip flip_prob", "train.augment.flip"),
        ("color_jitter colour_jitter photometric photometric_distortion brightness contrast", "train.augment.jitter"),
        ("cat_max_ratio", "train.augment.class_cap"),
        ("normalise normalization norm_cfg img_norm_cfg", "train.normalize"),
        ("amp fp16 bf16 mixed_precision use_amp half", "train.precision", "fp32, tf32, bf16 or fp16"),
        ("task_loss loss_fn criterion losses loss_decode ohem use_ohem", "train.loss"),
        ("aux aux_weight aux_loss aux_loss_weight auxiliary_head", "train.auxiliary_weight"),
        ("clip_grad grad_clip max_norm grad_clip_norm gradient_clip_val", "train.clip_norm"),
        ("accumulation grad_accum accumulative_counts gradient_accumulation_steps", "train.accumulate"),
        ("accumulate_grad_batches grad_accum_step", "train.accumulate"),
        ("ce cross_entropy crossentropy crossentropyloss", "cross-entropy"),
        ("ohemcrossentropy ohem_ce", "ohem"),
        ("sync_bn syncbn", "train.sync_batchnorm"),
        ("ema_decay model_ema", "train.ema"),
        ("val_interval eval_interval val_per_iters val_every evaluate_every val_epoch", "train.eval_every"),
        ("save_interval checkpoint_interval save_per_iters save_every save_epoch", "train.checkpoint_every"),
        ("tta test_scales img_ratios", "train.evaluation.scales"),
        ("slide_size window window_size", "train.evaluation.window_hw"),
        ("per_class ignore_absent", "protocol.absent_policy"),
        # Data, networks, methods, seeds.
        ("type", "name architecture"),
        ("dataset datasets dataset_name dataset_type", "data name"),
        ("data_root data_dir data_path root_dir path dir folder", "root data.root"),
        ("model models networks network", "architecture pairs"),
        ("arch decoder decode_head segmentation_head", "architecture"),
        ("backbone backbone_name encoder_name", "encoder"),
        ("teacher teachers teacher_model teacher_cfg student students student_model student_cfg", "pairs"),
        ("teacher_ckpt teacher_checkpoint teacher_pretrained teacher_weights", "pairs.0.teacher.checkpoint"),
        ("ckpt load_from ckpt_path weights", "checkpoint encoder_weights"),
        ("pretrained pretrained_base pretrained_backbone init_cfg imagenet", "encoder_weights"),
        ("student_pretrained_base student_pretrained", "pairs.0.student.encoder_weights"),
        ("teacher_pretrained_base", "pairs.0.teacher.encoder_weights"),
        ("params kwargs args options", "parameters"),
        ("method distiller distillers distillation kd_method distill_losses algorithm", "methods"),
        ("seed random_seed manual_seed repeats runs", "seeds"),
        ("work_dir save_dir output_dir out_dir log_dir exp_name experiment", "name", "the folder is RESULTS/NAME"),
        ("n_trials num_trials num_samples", "search.trials"),
        # Where it runs.
        ("num_workers n_workers dataloader_workers workers_per_gpu loaders", "resources.loader_workers"),
        ("gpus num_gpus gpu n_gpus gpu_ids device devices", "gpus_per_worker resources.gpus_per_worker"),
        ("nproc_per_node world_size", "workers resources.workers"),
        ("tensorboard wandb mlflow logger vis_backends", "loggers resources.loggers"),
        ("retries max_retries", "max_failures resources.max_failures"),
        # Datasets and networks.
        ("voc pascal pascal_voc voc12 voc_aug pascalvocdataset", "voc2012"),
        ("ade ade20k_150 ade150 ade20kdataset", "ade20k"),
        ("citys cityscape cityscapesdataset", "cityscapes"),
        ("custom own generic basesegdataset customdataset image_folder", "folder"),
        ("deeplabv3+ deeplabv3_plus deeplab_v3_plus deeplabplus", "deeplabv3plus"),
        ("deeplab_v3", "deeplabv3"),
        ("psp psp_mobile", "pspnet"),
        ("unet++", "unetplusplus"),
        ("uperhead", "upernet"),
        # Commands.
        ("train start fit resume", "run"),
        ("validate plan dry_run lint", "check"),
        ("table report plot plots", "tables"),
        ("test infer inference", "predict"),
        ("sweep hpo optimize", "tune"),
        ("new create template", "init"),
        ("watch monitor top ps", "status"),
        ("convert deploy onnx", "export"),
        ("demo example", "quickstart"),
    )
)


def nearest(name: str, allowed: Iterable[str], keys: bool = False) -> str:
    """` Did you mean 'x'?` for the one of `allowed` that the name means or is spelled like, or nothing.

    Args:
        name: what was given.
        allowed: what may stand there.
        keys: whether it is a key of an experiment file, whose meaning may be a key elsewhere in it.
    """
    if len(name) > 100:  # no name is
        return ""
    by_lower = {item.lower(): item for item in reversed(list(allowed))}  # of sgd and SGD the first
    if name.lower() not in by_lower and (found := _meant(name, set(by_lower.values()), keys)):
        return found
    near = difflib.get_close_matches(name.lower(), by_lower, n=5, cutoff=0.5)
    near.sort(key=lambda found: sorted(found) != sorted(name.lower()))  # letters in another order come first
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


def _meant(name: str, allowed: Collection[str], keys: bool) -> str:
    word = re.sub(r"[-.\s]+", "_", name.lower())
    for meaning in MEANINGS:
        if word not in meaning.words.split():
            continue
        for here in meaning.here.split():
            found = here if here in allowed else here.rpartition(".")[2]
            if found not in allowed:
                found = here
            if found in allowed or (keys and "." in here):
                return f" Did you mean {found!r}?" + (f" ({meaning.remark})" if meaning.remark else "")
    return ""
