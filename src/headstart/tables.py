"""Tables for the terminal."""

from collections.abc import Iterable, Sequence

# Wider than any table, so that no line is wrapped.
WIDTH = 10_000


def render_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of aligned columns under their names, without colour; without names if these are empty."""
    # Imported here because it takes a tenth of a second.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for name in columns:
        table.add_column(Text(name), no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
