"""The options of the proteomics task, and what can be said against them before any data is opened."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from core.errors import UserError
from datasets.proteomics_layout import SamplePlacement
from datasets.proteomics_steps import Missing, Scaler, Steps
from datasets.unit_splits import check_fractions
from models.joint_vae import CONFIGS, TYPES
from models.joint_vae.options import Config
from models.joint_vae.quantised import VectorQuantisedVAE
from models.joint_vae.sections import choose, refuse_useless
from models.joint_vae.unet import DirectMapping
from tasks._placement_options import Partition, PlacementOptions
from training.mistakes import sections_of
from training.options import Choice, DataPath, Options

Baseline = Literal["ridge", "knn", "wnn"]

DEFAULT = Steps()
BLOCKS = ("model", "loss_weights", "training")
WITHOUT_POSTERIOR = {VectorQuantisedVAE.model_type, DirectMapping.model_type}


class Preparation(Options):
    """How abundances become what a network sees; fitted on train samples only."""

    missing_value_strategy: Missing = DEFAULT.missing
    """mean or median of the feature; knn, of the 5 nearest train samples of the same client; drop the sample."""
    log_a: bool = False
    """Natural logarithm of platform a, shifted where its smallest value is not positive."""
    log_b: bool = False
    """Natural logarithm of platform b."""
    epsilon: float = Field(DEFAULT.epsilon, gt=0)
    """What the smallest value becomes where it is not positive."""
    normalization_method: Scaler = DEFAULT.scaler
    """zscore, minmax or robust (median and quartile range), by feature."""
    quantile_error: float = Field(DEFAULT.alpha, ge=0, le=0.1)
    """Relative error of medians and quartiles, which travel as counts; with 0 the values themselves would travel."""
    normalization_scope: Literal["federated", "local", "given"] = "federated"
    """One scaling from the merged numbers of all clients; each client its own; or one from a file."""
    given: DataPath | None = None
    """JSON as `model_final.json` of a run holds it, for normalization_scope: given."""

    @model_validator(mode="after")
    def _given_where_asked(self) -> "Preparation":
        if (self.normalization_scope == "given") != (self.given is not None):
            raise ValueError("normalization_scope: given and given: FILE belong together; give both or neither")
        return self

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "Preparation":
        refuse_useless(self, self._useless())
        return self

    def _useless(self) -> dict[str, tuple[bool, str]]:
        given = (self.given is not None, "the given file says how values were prepared")
        fitted = ("missing_value_strategy", "log_a", "log_b", "epsilon", "normalization_method", "quantile_error")
        quantiles = self.missing_value_strategy == "median" or self.normalization_method == "robust"
        own = {
            "epsilon": (not (self.log_a or self.log_b), "set log_a or log_b"),
            "quantile_error": (not quantiles, "set missing_value_strategy: median or normalization_method: robust"),
        }
        return dict.fromkeys(fitted, given) if self.given is not None else own

    def steps(self, platform: str) -> Steps:
        """Give what is done to one platform."""
        return Steps(
            missing=self.missing_value_strategy,
            log=self.log_a if platform == "a" else self.log_b,
            epsilon=self.epsilon,
            scaler=self.normalization_method,
            alpha=self.quantile_error,
        )


def _block(name: str) -> Choice:
    """Mark a block with what each model type takes there."""
    sections = {kind: sections_of(config.model_fields[name].annotation)[0] for kind, config in CONFIGS.items()}
    return Choice("model_type", sections)


class JointVAEOptions(PlacementOptions):
    """What `options:` of a proteomics config takes; `data` is a folder, see `datasets.proteomics_layout`."""

    partition: Partition | None = None
    """How donors of one pair of files are divided where nothing names clients: evenly or ranges."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test, in donors, where splits are drawn here."""
    split_seed: int = Field(42, ge=0, lt=2**32)
    """Seed of clients and splits made here."""
    unit_key: str | None = None
    """Column of the donor, whose samples stay in one split; by default each sample is its own."""
    keep_unpaired: bool = False
    """Train on samples that a client with both platforms measured on one of them only, too."""
    split: DataPath | None = None
    """CSV with id and split; by default splits are drawn here."""
    preparation: Preparation = Preparation()
    """Missing cells, logarithm, scaling."""

    model: Annotated[dict[str, Any], _block("model")] = Field(default_factory=dict)
    """`model_type` (joint_vae, joint_vae_plus, JointVAEVampPrior, JointIWAE, JointVQ, JointMM, res_unet or
    generative_vae; by default joint_vae) and what it takes."""
    loss_weights: Annotated[dict[str, Any], _block("loss_weights")] = Field(default_factory=dict)
    """Weights of the terms of the loss, and alignment_type."""
    training: Annotated[dict[str, Any], _block("training")] = Field(default_factory=dict)
    """What concerns the network: data_augmentation (enabled, gaussian_noise_std, target) and anneal_epochs; all else
    is in the section `train`."""
    n_samples: int = Field(0, ge=0)
    """Draws from the posterior whose predictions for new data are averaged; 0 takes its mean."""
    compare_with: tuple[Baseline, ...] = ()
    """Methods without a network to set beside the pooled one: ridge, knn, wnn."""
    spearman: bool = False
    """Score rank correlations, too. For them values of single samples travel to the server."""

    @field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        try:
            check_fractions(fractions)
        except UserError as error:
            raise ValueError(str(error).removeprefix("fractions: ")) from None
        return fractions

    @field_validator("compare_with")
    @classmethod
    def _each_method_once(cls, names: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a method is named twice; name each once")
        return names

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Write every option of the model type into the three blocks, so that a run's config says all of them."""
        if not isinstance(given, Mapping):
            return given
        blocks = {name: given.get(name) or {} for name in BLOCKS}
        if not all(isinstance(block, Mapping) for block in blocks.values()):
            return given
        try:
            config = checked_config(blocks)
        except UserError as error:
            raise ValueError(str(error)) from None
        dumped = config.model_dump(mode="json")
        dumped["model"] = {"model_type": model_type(blocks["model"]), **dumped["model"]}
        return {**given, **{name: dumped[name] for name in BLOCKS}}

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "JointVAEOptions":
        refuse_useless(self, self._useless())
        return self

    def _useless(self) -> dict[str, tuple[bool, str]]:
        kind = model_type(self.model)
        return {
            "fractions": (self.split is not None, "leave out split"),
            "split_seed": (self.split is not None and self.partition is None, "leave out split"),
            "keep_unpaired": (self.direct, f"model_type {kind} learns from pairs: choose another type"),
            "n_samples": (kind in WITHOUT_POSTERIOR, f"model_type {kind} has no posterior: choose another type"),
        }

    @property
    def direct(self) -> bool:
        """Whether the model maps one platform to the other and reconstructs neither."""
        return model_type(self.model) == DirectMapping.model_type

    def config(self) -> Config:
        """Give the checked options of the network."""
        return checked_config({name: getattr(self, name) for name in BLOCKS})

    def placement(self) -> SamplePlacement:
        """Say how samples are given to clients and splits."""
        drop = self.preparation.missing_value_strategy == "drop"
        own: dict[str, Any] = {"unit_key": self.unit_key, "keep_unpaired": self.keep_unpaired, "split": self.split}
        return SamplePlacement(**self.placed(), **own, drop_incomplete=drop)


def model_type(block: Mapping[str, Any]) -> str:
    """Give the type of model that a block names."""
    return str(block.get("model_type", "joint_vae"))


def checked_config(blocks: Mapping[str, Mapping[str, Any]]) -> Config:
    """Check the three blocks against what the model type takes.

    Raises:
        UserError: The type, a key or a value is not known.
    """
    kind = model_type(blocks["model"])
    if kind not in TYPES:
        raise choose("model.model_type", kind, TYPES)
    return CONFIGS[kind].checked(dict(blocks))
