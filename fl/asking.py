"""What becomes of clients that do not answer as they should: asked again, given up, or the end of the run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from fl.deaths import Deaths, WorkersDiedError
from fl.exchange import Arrays, Part
from fl.nodes import Answers, Failure, Nodes, Reject, raise_refusals
from training.federation import Federation
from training.runs import Run


class Asking:
    """Asks clients, and goes on without those that failed for good only as far as the policy allows."""

    def __init__(self, run: Run, nodes: Nodes, options: Federation, request: dict[str, Any]) -> None:
        """Take the policy.

        Args:
            run: Where failures are recorded.
            nodes: Who serves the clients.
            options: `retries`, `client_timeout`, `min_clients` and `on_client_failure`.
            request: Plain values that every request carries; more may be added on the way.
        """
        self.run, self.nodes, self.options, self.request = run, nodes, options, request
        self.deaths = Deaths(run.folder)

    def ask(
        self,
        kind: str,
        clients: Sequence[str],
        number: int,
        request: dict[str, Any],
        arrays: Arrays | None = None,
        reject: Reject = lambda name, part: None,
    ) -> Answers:
        """Ask clients in a round (0: before the first).

        Args:
            kind: Message type, such as `train`.
            clients: Names.
            number: The round whose step a failure is recorded under.
            request: Plain values for this request; `round` is the number unless it says otherwise.
            arrays: Global weights, or None.
            reject: Tells what is wrong with a client's good-looking answer, or None.

        Raises:
            UserError: A client refused its input, and too few good replies are left.
            RoundError: Too few good replies are left.
            WorkersDiedError: Workers of a simulation died.
        """
        request = {**self.request, "round": number, **request}
        exchange = " ".join(filter(None, [kind.removeprefix("query."), f"round {number}", request.get("split", "")]))
        given_up = self._killers(exchange)
        asked = [name for name in clients if name not in given_up]
        answers = self._patiently(kind, exchange, asked, number, request, arrays, reject)
        died = [
            Failure(name, kind.removeprefix("query."), "died", f"its worker died {count} times", "")
            for name, count in given_up.items()
            if name in clients
        ]
        failures = sorted([*answers.failures, *died], key=lambda one: one.client)
        for failure in failures:
            self._record(failure, number)
        if len(answers.good) < self.options.needed(len(clients)):
            raise_refusals(failures)  # There are some, since not all have given a good reply.
        return Answers(answers.good, failures)

    def _patiently(
        self, kind: str, exchange: str, clients: list[str], number: int, request: dict[str, Any],
        arrays: Arrays | None, reject: Reject,
    ) -> Answers:  # fmt: skip
        """Ask those that failed again, as often as `federation.retries` says."""
        good: dict[str, Part] = {}
        refused: list[Failure] = []
        failed: list[Failure] = []
        waiting = clients
        deaths = self.deaths.launches(exchange)
        for attempt in range(self.options.retries + 1):
            if not waiting:
                break
            for failure in failed:
                self._record(failure, number, deaths + attempt)
            answers = self.nodes.ask(
                kind, waiting, {**request, "attempt": attempt, "deaths": deaths}, arrays, reject,
                alone=self.deaths.suspects(exchange), timeout=self.options.client_timeout,
            )  # fmt: skip
            if answers.dead:
                self._relaunch(exchange, answers, number, deaths + attempt + 1)
            good |= answers.good
            refused += [failure for failure in answers.failures if failure.kind == "refused"]
            failed = [failure for failure in answers.failures if failure.kind != "refused"]
            waiting = [failure.client for failure in failed]
        return Answers({name: good[name] for name in sorted(good)}, [*refused, *failed])

    def _relaunch(self, exchange: str, answers: Answers, number: int, attempt: int) -> NoReturn:
        """Note whom dead workers served; the next launch asks them again, but for who has killed too many.

        Raises:
            WorkersDiedError: Always; there is no use in asking on.
        """
        self.deaths.add(exchange, answers.dead)
        served = sorted({name for share in answers.dead for name in share})
        died = {"kind": "died", "message": "its worker died or never answered"}
        for failure in answers.failures:
            if failure.client not in self._killers(exchange):
                told = replace(failure, **died, details=failure.message) if failure.client in served else failure
                self._record(told, number, attempt)
        raise WorkersDiedError(f"{exchange}: a worker died while it served {', '.join(served)}")

    def _killers(self, exchange: str) -> dict[str, int]:
        """Give the clients that are not asked any more, with the workers that each has killed."""
        return {name: count for name, count in self.deaths.counts(exchange).items() if count > self.options.retries}

    def _record(self, failure: Failure, number: int, attempt: int | None = None) -> None:
        """Write down a failure of a client, which is asked again after this attempt where there is one."""
        details = "" if failure.kind == "refused" else failure.details  # Input of a user has no traceback.
        self.run.client_failed(
            failure.client, number, failure.phase, failure.message, details, kind=failure.kind, attempt=attempt
        )
