"""`tkd`: the group, and how errors reach the user."""

import errno
import sys

import click

from pipeline.cli.cache import cache
from pipeline.cli.data import data
from pipeline.cli.evaluate import evaluate_command
from pipeline.cli.export import detect_command, export_command
from pipeline.cli.predict import predict_command
from pipeline.cli.report import report_command
from pipeline.cli.students import students_command
from pipeline.cli.sweep import sweep_command
from pipeline.cli.teacher import teacher
from pipeline.cli.train import train_command
from pipeline.errors import TkdError

_EXTRAS = {  # module -> the extra that installs it
    "dask": "sweep",
    "distributed": "sweep",
    "espeakng_loader": "synth",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "pyarrow": "teacher",
    "soundfile": "teacher",
    "torchaudio": "teacher",
    "transformers": "teacher",
}


class _Group(click.Group):
    """Turns foreseen errors into one line and exit code 1; the unforeseen keeps its traceback."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except TkdError as error:
            raise click.ClickException(str(error)) from error
        except ValueError as error:
            from cache_schema import CacheError

            if isinstance(error, CacheError):
                raise click.ClickException(str(error)) from error
            raise
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise click.ClickException(
                f"{error.name} is not installed; this command needs it. "
                f"Install it with: pip install -e '.[{extra}]' (in tkd's folder)"
            ) from error
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise click.ClickException(
                    f"The disk is full{where}. Free some space and run the same command again: it goes on from there."
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTDIR):
                raise click.ClickException(f"{error.strerror}{where}. Mend that, or give another path.") from error
            raise


def tkd_train() -> None:
    """`tkd-train`: the same as `tkd train`."""
    tkd(["train", *sys.argv[1:]], prog_name="tkd")


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
)
@click.version_option(package_name="tkd")
def tkd() -> None:
    """Temporal knowledge distillation: run a big audio teacher once, keep where it looked, train tiny students."""


for command in (
    data,
    teacher,
    cache,
    students_command,
    train_command,
    sweep_command,
    evaluate_command,
    predict_command,
    export_command,
    detect_command,
    report_command,
):
    tkd.add_command(command)

if __name__ == "__main__":
    tkd()
