"""MLflow's own system metrics (CPU, memory, disk, network, GPU where nvidia-ml-py is installed), beside a run."""

from __future__ import annotations

from collections.abc import Callable

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


class SystemMetrics(SystemMetricsMonitor):
    """Samples as MLflow does, but hands samples on and asks nothing: MLflow's own gives up when the store is away."""

    def __init__(self, run: str, seconds: float, resumed: bool, put: Callable[[dict[str, float], int], None]) -> None:
        """Sample every ``seconds`` for run ``run``, and ``put`` each sample with its number."""
        super().__init__(run, sampling_interval=seconds, resume_logging=resumed)  # type: ignore[no-untyped-call]
        self._put = put

    def monitor(self) -> None:
        """Sample until told to stop; a last one is taken then, so that a short run has some, too."""
        stopped = False
        while not stopped:
            for _ in range(self.samples_before_logging):
                self.collect_metrics()  # type: ignore[no-untyped-call]
                stopped = stopped or self._shutdown_event.wait(self.sampling_interval)
            self.publish_metrics(self.aggregate_metrics())  # type: ignore[no-untyped-call]

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        """Hand ``metrics`` on."""
        node = f"{self.node_id}/" if self.node_id else ""
        self._put({f"{self._metrics_prefix}{node}{name}": value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
