"""`tkd sweep`."""

import json
from dataclasses import fields
from pathlib import Path

import click

from pipeline.cli.options import Listed, Location, checked
from pipeline.cli.train import train_command
from pipeline.distill.config import TrainConfig
from pipeline.errors import TkdError, nearest
from pipeline.sweep.config import SweepConfig, Workers

_MOST_SEEDS = 100


class _Students(click.ParamType):
    """Names of students with commas between; all: the paper's five; every: all there are."""

    name = "all|every|name,..."

    def convert(self, value, param, ctx):
        from students import PAPER_STUDENTS, STUDENTS

        groups = {"all": PAPER_STUDENTS, "every": tuple(STUDENTS)}
        names = groups.get(value) or tuple(name.strip() for name in value.split(",") if name.strip())
        for name in names or ("",):
            if name not in STUDENTS:
                self.fail(f"no such student: {name}. {nearest(name, STUDENTS)}", param, ctx)
        return names


class _Seeds(click.ParamType):
    """How many, from 0: "3"; or which: "0,4,5"."""

    name = "n|seed,..."

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is neither a number of seeds, as in 3, nor their list, as in 0,1,2", param, ctx)
        if "," in value or not numbers:
            return numbers
        if numbers[0] > _MOST_SEEDS:
            self.fail(f"{value} seeds are more than {_MOST_SEEDS}. For seed {value} alone give {value},", param, ctx)
        return tuple(range(*numbers))


class _FrameWeights(click.ParamType):
    """Choices with commas between; those of `layers:` and `heads:` have commas of their own."""

    name = "choice,..."

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        choices: list[str] = []
        for part in filter(None, map(str.strip, value.split(","))):
            if part[0].isdigit() and choices:
                choices[-1] += f",{part}"
            else:
                choices.append(part)
        return tuple(choices)


_SHARED = {field.name for field in fields(TrainConfig)} - {"student", "kd_weight", "frame_weights", "seed"}


@click.command("sweep")
@click.option("--cache", "cache_path", type=Location(), required=True, help="Cache to train from: path or URL.")
@click.option(
    "--students", type=_Students(), default="all", help="Networks to train: all, the paper's five; every; or names."
)
@click.option(
    "--kd-weights",
    type=Listed("number,...", float),
    default=",".join(f"{weight:g}" for weight in SweepConfig.kd_weights),
    help="Weights of the teacher; 0: none.",
)
@click.option(
    "--frame-weights",
    type=_FrameWeights(),
    default=",".join(SweepConfig.frame_weights),
    help="What the teacher's attention is, and the controls, as in rollout,uniform,shuffled,event.",
)
@click.option("--seeds", type=_Seeds(), default=str(len(SweepConfig.seeds)), help="How many, or which.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes of this machine that train a cell each; 0: this one.  [default: one for each GPU, or core]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of dask.distributed: its workers train.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of each worker.  [default: its share of the cores, all for one]"
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/sweep"), help="Folder; each cell's run is one in it."
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics of all cells as JSON.")
def sweep_command(
    cache_path, students, kd_weights, frame_weights, seeds, workers, scheduler, threads, memory, out, as_json, **shared
) -> None:
    """Train the grid students x weights x seeds from one cache. Run again to resume.

    Each cell is a run of its own, as of tkd train with the same settings; complete ones are not trained again, those
    that fail are listed at the end. At weight 0 there is one, whatever the frame weights.

    \b
    Example:
      tkd sweep --cache caches/mini.zarr --students all --kd-weights 0,0.25 --seeds 3
    \b
    With controls, on a machine with 4 GPUs:
      tkd sweep --cache caches/nscv2-8s.zarr --frame-weights rollout,uniform,shuffled,event --workers 4
    """
    grid = checked(SweepConfig, kd_weights=kd_weights, frame_weights=frame_weights, seeds=seeds)
    by = checked(Workers, workers=workers, scheduler=scheduler, threads=threads)
    common = checked(TrainConfig, kd_weight=0.0, **shared)  # the grid's weights are checked with the cells
    configs = checked(grid.cells, students=students, common=common)

    from cache_schema import open_cache
    from pipeline.distill.augment import check_augmentations
    from pipeline.progress import FetchLog
    from pipeline.sweep.run import sweep
    from pipeline.sweep.summary import summary

    checked(check_augmentations, names=common.augment)
    cells = sweep(open_cache(cache_path, FetchLog(cache_path)), configs, out, by, memory)
    if as_json:
        answers = {cell.name: cell.metrics or {"failed": cell.failure} for cell in cells}
        click.echo(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        click.echo(summary(cells))
    failed = [f"{cell.path}: {cell.failure}" for cell in cells if cell.failure is not None]
    if failed:
        listed = "\n".join(failed)
        raise TkdError(f"{len(failed)} of {len(cells)} cells failed; run the same again to try them again.\n{listed}")


# Whatever tkd train takes for a run is given once for all cells.
sweep_command.params += [option for option in train_command.params if option.name in _SHARED | {"memory"}]
