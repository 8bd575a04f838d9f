"""What is measured, as it is kept in results.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_BUSY = 0.5  # of the load average, above the number of cores


@dataclass(frozen=True)
class Row:
    """One ratio. `own` and `reference` are the medians behind it, in the unit of its table."""

    what: str
    ratio: float
    own: float
    reference: float
    rounds: int = 1
    low: float | None = None  # see `compare.interval`; None: measured once
    high: float | None = None


@dataclass(frozen=True)
class Table:
    """Ratios to one kind of reference."""

    title: str  # what is measured
    reference: str  # what it stands beside
    rows: list[Row]
    unit: str = "s"  # of the rows' raw figures
    target: float | None = None
    higher_is_better: bool = False

    def verdict(self, row: Row) -> str:
        """Returns whether a row meets the target: met, missed, or the one of them with "within the spread"."""
        if self.target is None:
            return ""

        def meets(ratio: float) -> bool:
            return ratio >= self.target if self.higher_is_better else ratio <= self.target

        word = "met" if meets(row.ratio) else "missed"
        spread = {meets(ratio) for ratio in (row.low, row.high) if ratio is not None}
        return f"{word}, within the spread" if len(spread) > 1 else word


@dataclass(frozen=True)
class Measured:
    """What a section found: its tables, and what is to be said beside them, in Markdown."""

    tables: list[Table]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A section with when and under what load it ran."""

    name: str
    began: str  # UTC, to the second
    seconds: float
    load: float  # average of the last minute when it began
    n_cores: int
    quick: bool
    measured: Measured

    @property
    def disturbed(self) -> bool:
        """Whether others kept the machine busy when it began."""
        return self.load > self.n_cores + _BUSY

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return asdict(self)

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> "Section":
        """Returns the section that `as_json` gave."""
        tables = [
            Table(**(table | {"rows": [Row(**row) for row in table["rows"]]}))
            for table in written["measured"]["tables"]
        ]
        return cls(**(dict(written) | {"measured": Measured(tables, written["measured"]["notes"])}))
