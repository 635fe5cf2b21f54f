"""The options of `dipair-index train` and `train-teacher`, and the settings made of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import click
from click.core import ParameterSource

from dipair_index.cli._options import Command, Renamed, all_of, compute_options
from dipair_index.cli._types import (
    COUNT,
    LARGEST,
    NOT_NEGATIVE,
    NOT_NEGATIVE_COUNT,
    POSITIVE,
    SHARE,
    STEPS,
    TEXT,
)
from dipair_index.models.systems import KEEP, POOLINGS, RESIDUALS, SYSTEMS
from dipair_index.training.settings import BERT_TINY, LOSS_NAMES, TrainingSettings

SYSTEM_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # the papers' baselines read the encoder's own vectors
    "de-ffnn": {"dim": None},
    "de-cos": {"dim": None},
    "dse": {"dim": None, "loss": "regression"},
    # what is fitted to a late-interaction encoder of 96 dimensions
    "aligned": {
        "keep": "clusters",
        "max_query_tokens": 32,
        "max_passage_tokens": 32,
        "dim": 96,
        "head_attention_heads": 6,
        "head_intermediate": 384,
        "head_dropout": 0.0,
        "loss": "ranking",
        "temperature": 2.0,
        "group": 6,
        "batch_queries": 32,
        "stage_one_epochs": 4.0,
        "stage_one_learning_rate": 1e-3,
        "stage_two_learning_rate": 1e-5,
    },
    # its joint layers are pretrained ones, which a high rate would spoil
    "prettr": {"stage_one_epochs": 1.0, "stage_one_learning_rate": 5e-5},
    # from random weights, in one stage
    BERT_TINY: {"stage_two_epochs": 10.0, "stage_two_learning_rate": 5e-4},
}
"""Defaults that differ from those of the other systems."""

MODEL_SETTINGS = (
    "system", "max_query_tokens", "max_passage_tokens", "dim", "keep", "pooling",
    "similarity_residual", "query_length", "passage_length", "query_prefix", "passage_prefix",
    "shared_encoder",
    "shared_projections", "head_layers", "head_attention_heads", "head_intermediate",
    "head_hidden", "head_dropout",
)  # fmt: skip
"""The options that are settings of `DiPairConfig` as they are."""

SECTIONS: Mapping[str, Sequence[str]] = {
    "Model": (
        "system",
        "side",
        "encoder",
        "random_start",
        "layers",
        "extra_side",
        *MODEL_SETTINGS,
    ),
    "Training": [field.name for field in fields(TrainingSettings) if field.name != "device"],
}
"""The options by the sections of `train --help`; the others are those of the run."""

DIPAIR_ONLY = (
    *(name for name in MODEL_SETTINGS if name not in ("system", "query_length", "passage_length")),
    "extra_side", "side", "vector_weight", "stages", "stage_one_epochs", "stage_one_learning_rate",
    "stage_two_layers", "projection_start", "vector_teacher", "train_embeddings", "weights",
)  # fmt: skip
"""The options that mean nothing to a cross-encoder."""


def _width(ctx: click.Context, parameter: click.Parameter, value: Any) -> int | None:
    """A number of dimensions; None for 0 or "none", which is the encoder's own."""
    if str(value).lower() in ("none", "0"):
        return None
    if str(value).isdecimal() and int(value) <= LARGEST:
        return int(value)
    raise click.BadParameter(f'{value!r} is not a number of dimensions: pass 256, say, or "none"')


def _widths(ctx: click.Context, parameter: click.Parameter, value: Any) -> list[int]:
    """The widths of layers, of a list or of a text such as 128,128."""
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    if parts and all(str(part).strip().isdecimal() and 0 < int(part) <= LARGEST for part in parts):
        return [int(part) for part in parts]
    raise click.BadParameter(f"{value!r} is not a list of layer widths, such as 128,128")


class Sectioned(click.Command):
    """A command whose help lists its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a table for each of `SECTIONS`, and one for the rest."""
        titles = {name: title for title, names in SECTIONS.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in [*SECTIONS, "Run"]}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                rows[titles.get(str(parameter.name), "Run")].append(record)
        for title, records in rows.items():
            with formatter.section(f"{title} options"):
                formatter.write_dl(records)


def system_option() -> Callable[[Command], Command]:
    """`--system`."""
    return click.option(
        "--system",
        type=click.Choice([*SYSTEMS, BERT_TINY]),
        default=SYSTEMS[0],
        show_default=True,
        help="Architecture to train: DiPair with its transformer head (tsf) or a feed-forward head "
        "(ffnn), a dual encoder with such a head or the cosine (de-ffnn, de-cos), DSE, a "
        "Poly-encoder, MaxSim, PreTTR (prettr), which caches all tokens for the upper layers of a "
        "cross-encoder, or a small cross-encoder (bert-tiny)",
    )


model_options = all_of(
    click.option("--layers", type=COUNT, help="Keep only the first K layers of the encoder"),
    click.option("--max-query-tokens", type=COUNT, default=4, show_default=True,
                 help="Keep this many output tokens of each query (N); prettr keeps all"),
    click.option("--max-passage-tokens", type=COUNT, default=8, show_default=True,
                 help="Keep this many output tokens of each passage (M); prettr keeps all"),
    click.option("--dim", type=click.UNPROCESSED, callback=_width, default=256,
                 show_default=True, metavar="D|none",
                 help="Project kept tokens to D dimensions; none, which is the "
                 "default of de-ffnn, de-cos and dse, keeps those of the encoder"),
    click.option("--token-pooling", "keep", cls=Renamed, former="--keep",
                 type=click.Choice(KEEP), default=KEEP[0], show_default=True,
                 help="Keep the first or the last output tokens, as the paper does, the first "
                 "token and the means of even spans of the others, or the means of clusters of "
                 "similar tokens; clusters for aligned"),
    click.option("--pooling", type=click.Choice(["auto", *POOLINGS]), default="auto",
                 show_default=True, help="Sentence vector: the output of [CLS], as in the paper, "
                 "the mean of all outputs, or a linear map of both; auto is what the encoder was "
                 "trained with"),
    click.option("--similarity-residual", type=click.Choice(RESIDUALS), default="maxsim",
                 show_default=True,
                 help="Similarity that is added to the head's logit: the cosine of the first "
                 "tokens, or MaxSim of all kept tokens; none is the paper's"),
    click.option("--query-length", type=COUNT, default=32, show_default=True,
                 help="Truncate queries to this many tokens"),
    click.option("--passage-length", type=COUNT, default=128, show_default=True,
                 help="Truncate passages to this many tokens"),
    click.option("--query-prefix", type=TEXT, default="", metavar="TEXT",
                 help="Text before every query, as the encoder was trained with it: 'query: ' for "
                 "E5"),
    click.option("--passage-prefix", type=TEXT, default="", metavar="TEXT",
                 help="Text before every passage, as the encoder was trained with it"),
    click.option("--extra-side", type=TEXT, multiple=True, metavar="NAME=TOKENS[:LENGTH]",
                 help="Keep this many output tokens of a further side of the dataset's tuples, and "
                 "truncate it to LENGTH tokens; may be repeated  [default: as of a passage]"),
    click.option("--shared-encoder/--separate-encoders", default=True, show_default=True,
                 help="Encode all sides with one encoder, or each with its own"),
    click.option("--shared-projections/--separate-projections", default=False, show_default=True,
                 help="Project all sides with one projection, or each with its own"),
    click.option("--head-layers", type=COUNT, default=2, show_default=True,
                 help="Number of layers of the tsf and aligned heads; of prettr, that of the "
                 "encoder's last layers, which read both texts"),
    click.option("--head-attention-heads", type=COUNT, default=1, show_default=True,
                 help="Number of attention heads of the tsf and aligned heads"),
    click.option("--head-intermediate", type=COUNT, default=1024, show_default=True,
                 help="Feed-forward width of the tsf and aligned heads"),
    click.option("--head-hidden", type=click.UNPROCESSED, callback=_widths, default="128,128",
                 show_default=True, metavar="WIDTH,...",
                 help="Widths of the hidden layers of the ffnn, de-ffnn and dse heads"),
    click.option("--head-dropout", type=SHARE, default=0.1,
                 show_default=True, help="Dropout rate of the head"),
)  # fmt: skip
"""The options of the model, among them the sizes that the paper varies."""


bf16_option = click.option(
    "--bf16", cls=Renamed, former="--half", is_flag=True, help="Train in bfloat16 mixed precision"
)


def _setting(flag: str, kind: Any, help: str, **more: Any) -> Any:
    """An option with the default of its field in `TrainingSettings`."""
    name = flag.removeprefix("--").replace("-", "_")
    default = next(field.default for field in fields(TrainingSettings) if field.name == name)
    return click.option(
        flag, type=kind, default=default, show_default=default is not None, help=help, **more
    )


training_options = all_of(
    _setting("--loss", click.Choice(LOSS_NAMES),
             "Loss of each label (binary, the paper's; regression, DSE's and its default; "
             "multi-class), of each query's order (margin-mse, listwise, ranking), or binary and "
             "listwise together (both)"),
    _setting("--temperature", POSITIVE,
             "Temperature of the distillation, by which labels are divided"),
    _setting("--vector-weight", NOT_NEGATIVE,
             "Weight of the loss that keeps the sentence vectors good for retrieval"),
    _setting("--group", COUNT,
             "Labelled passages of each query in a training step (train_group_size elsewhere)"),
    _setting("--batch-queries", COUNT, "Queries in a training step"),
    _setting("--stages", click.Choice(["one", "two"]),
             "Train first the new parameters and then all, or all parameters from the start with "
             "the settings of stage two"),
    _setting("--stage-one-epochs", NOT_NEGATIVE,
             "Epochs of stage one, with a frozen encoder; 1 for prettr"),
    _setting("--stage-one-learning-rate", POSITIVE,
             "Peak learning rate of stage one; 5e-5 for prettr"),
    _setting("--stage-two-epochs", NOT_NEGATIVE,
             "Epochs of stage two, with all parameters; 10 from random weights"),
    _setting("--stage-two-learning-rate", POSITIVE,
             "Peak learning rate of stage two; 5e-4 from random weights"),
    _setting("--stage-two-layers", COUNT,
             "Train only this many top layers of the encoder in stage two  [default: all]"),
    _setting("--projection-start", click.Choice(["principal", "random", "pretrained"]),
             "Initialise the projections with the principal directions of the hidden states, at "
             "random as the paper does, or with what a late-interaction encoder was trained with"),
    _setting("--vector-teacher", TEXT,
             "Fit the vectors of --pooling linear to those of this sentence encoder",
             metavar="NAME"),
    _setting("--warm-up", SHARE,
             "Share of each stage's steps during which the learning rate rises to its peak"),
    _setting("--max-steps", STEPS,
             "End each stage after this many steps; 0 and -1 set no limit"),
    _setting("--save-steps", COUNT, "Steps between checkpoints"),
    click.option("--train-embeddings", is_flag=True,
                 help="Train the word embeddings too, instead of keeping the encoder's"),
    _setting("--weights", click.Choice(["float16", "int8"]),
             "Store the weights in this type; int8 halves the bytes of the encoder's matrices"),
    _setting("--seed", NOT_NEGATIVE_COUNT, "Random seed"),
    compute_options("Train"),
    bf16_option,
)  # fmt: skip
"""The fields of `TrainingSettings`."""

run_options = all_of(
    click.option("--resume", is_flag=True, help="Resume an interrupted run"),
    click.option("--overwrite", is_flag=True, help="Replace a model that exists"),
)


def refuse_given(ctx: click.Context, system: str, names: Sequence[str]) -> None:
    """Raises `UsageError` if a flag was given that means nothing to the system."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} means nothing to {system}: leave it out")


def use_system_defaults(ctx: click.Context, options: dict[str, Any], system: str) -> None:
    """Sets the options that were not given to the defaults of a system."""
    for name, value in SYSTEM_DEFAULTS.get(system, {}).items():
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            options[name] = value


def model_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of `DiPairConfig`."""
    sides = extra_sides(options["extra_side"], options["passage_length"])
    return {**{name: options[name] for name in MODEL_SETTINGS}, "extra_sides": sides}


def training_settings(options: Mapping[str, Any]) -> TrainingSettings:
    """Returns the `TrainingSettings`."""
    return TrainingSettings(**{each.name: options[each.name] for each in fields(TrainingSettings)})


def extra_sides(given: Sequence[str], usual_length: int) -> dict[str, list[int]]:
    """Parses NAME=TOKENS[:LENGTH]: tokens kept and read of each side, by name."""
    sides = {}
    for text in given:
        name, _, sizes = text.partition("=")
        tokens, colon, length = sizes.partition(":")
        if not (name and tokens.isdecimal() and (length.isdecimal() if colon else True)):
            raise click.UsageError(
                f"--extra-side {text}: expected NAME=TOKENS or NAME=TOKENS:LENGTH, such as title=4"
            )
        sides[name] = [int(tokens), int(length) if colon else usual_length]
    return sides


def given_command(ctx: click.Context) -> str:
    """Returns the command line that sets the same, wherever the settings came from."""
    words = ["dipair-index", str(ctx.info_name)]
    for parameter in ctx.command.params:
        name = str(parameter.name)
        # --help and --threads are no parameters of the command's function
        of_this_run = name in ("resume", "overwrite") or name not in ctx.params
        if of_this_run or ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            # an option such as --bf16 has no word for false, its default
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
            continue
        for each in value if parameter.multiple else [value]:
            shown = ",".join(map(str, each)) if isinstance(each, list) else str(each)
            words += [parameter.opts[0], "none" if each is None else shown]
    return shlex.join(words)


def prepare_training(encoder: str, device: str) -> None:
    """Checks the packages, the encoder and the device before torch is imported."""
    from dipair_index.models.sources import ENCODER, NEXT, encoder_source
    from dipair_index.models.torch_setup import prepare_torch_for
    from dipair_index.optional import require

    require("train", "training")
    source = encoder_source(encoder)
    prepare_torch_for(source, kind=ENCODER, following=NEXT, needed_by="training", device=device)
