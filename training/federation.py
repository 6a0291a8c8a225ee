"""What the federated setting adds to an experiment: rounds, sampling, strategy, resources.

The option classes name Flower's strategies and hold those options that act on aggregation; `fl.strategies` builds
the strategies themselves.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from training.faults import AnyFault
from training.options import WEEK, Options, named


class FedAvg(Options):
    """Average weighted by training samples (McMahan et al., arXiv 1602.05629)."""

    name: Literal["fedavg"] = "fedavg"


class FedAvgM(Options):
    """FedAvg with server momentum (Hsu et al., arXiv 1909.06335)."""

    name: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: float = Field(1.0, gt=0)
    """Step of the server along the averaged update."""
    server_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last server update that is kept."""


class FedProx(Options):
    """FedAvg with a pull towards the global weights during local training (Li et al., arXiv 1812.06127)."""

    name: Literal["fedprox"] = "fedprox"
    proximal_mu: float = Field(0.01, ge=0)
    """Strength of the pull: loss + mu/2 * squared distance to the global weights."""


class FedAdagrad(Options):
    """Adaptive server optimizer (Reddi et al., arXiv 2003.00295)."""

    name: Literal["fedadagrad"] = "fedadagrad"
    eta: float = Field(0.01, gt=0)
    """Server learning rate."""
    tau: float = Field(1e-3, gt=0)
    """Degree of adaptivity."""


class FedAdam(FedAdagrad):
    """Adam on the server (Reddi et al., arXiv 2003.00295)."""

    name: Literal["fedadam"] = "fedadam"  # type: ignore[assignment]
    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment."""


class FedYogi(FedAdam):
    """Yogi on the server (Reddi et al., arXiv 2003.00295)."""

    name: Literal["fedyogi"] = "fedyogi"  # type: ignore[assignment]


class FedMedian(Options):
    """Coordinate-wise median (Yin et al., arXiv 1803.01498)."""

    name: Literal["fedmedian"] = "fedmedian"


class FedTrimmedAvg(Options):
    """Mean without the extremes of each coordinate (Yin et al., arXiv 1803.01498)."""

    name: Literal["fedtrimmedavg"] = "fedtrimmedavg"
    beta: float = Field(0.2, ge=0, lt=0.5)
    """Share cut at each end."""


class Krum(Options):
    """The update closest to its neighbours (Blanchard et al., NeurIPS 2017)."""

    name: Literal["krum"] = "krum"
    num_malicious_nodes: int = Field(0, ge=0)
    """Attackers to withstand."""


class MultiKrum(Krum):
    """Mean of the best-scored updates of Krum."""

    name: Literal["multikrum"] = "multikrum"  # type: ignore[assignment]
    num_nodes_to_select: int = Field(1, ge=1)
    """Updates averaged."""


class Bulyan(Krum):
    """Krum selection followed by a trimmed mean (El Mhamdi et al., arXiv 1802.07927)."""

    name: Literal["bulyan"] = "bulyan"  # type: ignore[assignment]


class QFedAvg(Options):
    """Fair federated learning (Li et al., arXiv 1905.10497): clients with a high loss count more."""

    name: Literal["qfedavg"] = "qfedavg"
    client_learning_rate: float = Field(0.1, gt=0)
    """Inverse of the assumed Lipschitz constant."""
    q: float = Field(0.1, ge=0)
    """Degree of fairness; 0 is the unweighted mean."""


Strategy = Annotated[
    Annotated[
        FedAvg
        | FedAvgM
        | FedProx
        | FedAdagrad
        | FedAdam
        | FedYogi
        | FedMedian
        | FedTrimmedAvg
        | Krum
        | MultiKrum
        | Bulyan
        | QFedAvg,
        Field(discriminator="name"),
    ],
    named("fedavg"),
]


class Federation(Options):
    """The federated setting. The other two settings read `rounds` and `local_epochs` alone, for their budget."""

    rounds: int = Field(5, ge=1)
    """Exchanges between server and clients."""
    local_epochs: int = Field(1, ge=1)
    """Passes over its own data that a client makes in each round."""
    clients_per_round: int | None = Field(None, ge=1)
    """Clients drawn in each round by a seeded rule on names; by default all."""
    on_client_failure: Literal["stop", "continue"] | None = None
    """Whether a run goes on without a client that failed for good; by default only where min_clients is set."""
    min_clients: int | None = Field(None, ge=1)
    """Good replies a round needs to go on degraded; by default 1 with on_client_failure: continue, else all asked."""
    retries: int = Field(1, ge=0)
    """How often a client that failed is asked again in the same round; also how often dead workers are replaced."""
    client_timeout: float | None = Field(None, gt=0, le=WEEK)
    """Seconds that a client may take for one request, a week at most; by default any."""
    faults: tuple[AnyFault, ...] = ()
    """Faults to suffer on purpose: a list of {kind, client, round or rate, ...}; for studies."""
    strategy: Strategy = FedAvg()
    """Flower strategy by name, with its options."""
    optimizer_state: Literal["fresh", "kept"] = "fresh"
    """Whether a client starts each round with a new optimizer or goes on with its own."""
    batchnorm: Literal["average", "local", "freeze"] = "average"
    """Running statistics of BatchNorm: averaged by samples; kept at each client (SiloBN, arXiv 2008.07424), so that
    the server has no whole network to score on a held-out set; or left as they were before training."""
    workers: int | None = Field(None, ge=1)
    """Clients trained at the same time; by default as many as cores, GPUs and clients allow."""
    cpus_per_client: int = Field(1, ge=1)
    """Cores reserved for a client while it trains."""
    gpus_per_client: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """Share of a GPU reserved for a client; `auto` measures one training step. 0 where there is no GPU."""

    @model_validator(mode="after")
    def _policy(self) -> "Federation":
        if self.on_client_failure == "stop" and self.min_clients:
            raise ValueError("on_client_failure: stop leaves min_clients without effect; leave one of them out")
        if self.min_clients and self.clients_per_round and self.min_clients > self.clients_per_round:
            raise ValueError(
                f"min_clients = {self.min_clients} is more than clients_per_round = {self.clients_per_round} can give; "
                "lower it"
            )
        return self

    @model_validator(mode="after")
    def _faults_come(self) -> "Federation":
        for number, rule in enumerate(self.faults):
            if rule.round is not None and rule.round > self.rounds:
                raise ValueError(f"faults.{number}.round = {rule.round}: there are {self.rounds} rounds; lower it")
        return self

    def needed(self, asked: int) -> int:
        """Give the good replies that a round needs of those asked."""
        if self.min_clients:
            return min(self.min_clients, asked)
        return 1 if self.on_client_failure == "continue" else asked
