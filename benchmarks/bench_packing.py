"""Trials of a study at once and one after the other: `python benchmarks/bench_packing.py [--device cuda]`.

Trains the same ensembles of the default settings, which differ in learning rate, as one pack and one after the other,
in turns, and prints how many times as fast the pack is (median of the pairs). On a GPU a pack of 16 should reach 6.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import pandas as pd

from henaw.config import Config, asset_folder, load_config
from henaw.data.panel import Panel, load_panel
from henaw.data.synthetic import synthetic_table
from henaw.model.clock import Clock
from henaw.training.fit import fit_clock, fit_pack
from henaw.training.telemetry import Events

HIDDEN = ("[32,32]", "[64,64]", "[128,128]")
PEOPLE, CALIBRATION = 16 * 512, 1024


def people(panel: Panel) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Made-up people to train on, and others to calibrate."""
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    table = synthetic_table(3 * PEOPLE, (40, 69), 0, summaries=summaries)
    table = table.dropna(subset=[*panel.names, "sex", "age_years"]).reset_index(drop=True)
    return table.iloc[:PEOPLE], table.iloc[PEOPLE : PEOPLE + CALIBRATION]


def packed_against_alone(
    size: int,
    *,
    hidden: str = "[128,128]",
    dropout: float = 0.0,
    device: str = "auto",
    threads: int = 0,
    pairs: int = 3,
    epochs: int = 3,
) -> tuple[float, float, float]:
    """Seconds of ``size`` trainings one after the other and as a pack, and their ratio (medians of ``pairs`` pairs)."""
    told = f"network.hidden={hidden} network.dropout={dropout} training.device={device} training.threads={threads}"
    config = load_config("default", overrides=f"{told} training.epochs={epochs} training.patience={epochs}")
    panel = load_panel(config.panel, asset_folder("mlproject") / "panels")
    rates = [0.001 * 1.2**number for number in range(size)]
    configs = [_with_rate(config, rate) for rate in rates]
    train, calibration = people(panel)
    fit_clock(train, calibration, panel, configs[0], Events())  # warm
    alone: list[float] = []
    packed: list[float] = []
    for pair in range(pairs):
        for kind in (alone, packed) if pair % 2 == 0 else (packed, alone):
            began = time.perf_counter()
            if kind is alone:
                for one in configs:
                    fit_clock(train, calibration, panel, one, Events())
            else:
                ended = dict(fit_pack(train, calibration, panel, configs, [Events()] * size))
                assert all(isinstance(clock, Clock) for clock in ended.values())
            kind.append(time.perf_counter() - began)
    return median(alone), median(packed), median(one / other for one, other in zip(alone, packed, strict=True))


def _with_rate(config: Config, rate: float) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": rate})})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; 0 = all cores")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4])
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    print("hidden | dropout | trials | one after the other, s | packed, s | times as fast")
    for hidden in HIDDEN:
        for size in options.sizes:
            for dropout in (0.0, 0.1):
                alone, packed, ratio = packed_against_alone(
                    size,
                    hidden=hidden,
                    dropout=dropout,
                    device=options.device,
                    threads=options.threads,
                    pairs=options.pairs,
                )
                print(f"{hidden} | {dropout} | {size} | {alone:.2f} | {packed:.2f} | {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
