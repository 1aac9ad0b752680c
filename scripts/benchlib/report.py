"""Markdown of what was measured: a table to compare, and one with every figure."""

import statistics

REQUESTS = ["GET", "HEAD", "LIST", "PUT", "COPY", "DELETE", "DELETE_OBJECTS", "CREATE", "PART", "PART_COPY", "COMPLETE", "ABORT", "OTHER"]
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


class Cell:
    """All rounds of one step with one program."""

    def __init__(self, step, results):
        self.step = step
        self.failure = next((r.failure for r in results if r.failure), None)
        self.results = results

    def median(self, of):
        return statistics.median(of(result) for result in self.results)

    def seconds(self):
        return self.median(lambda r: r.seconds)

    def cpu_seconds(self):
        return self.median(lambda r: r.cpu_seconds)

    def cpu_per_gib(self):
        return self.cpu_seconds() / self.step.gib

    def peak_mib(self):
        return self.median(lambda r: r.peak_mib)

    def gb_per_second(self):
        return self.step.gib * (1 << 30) / 1e9 / self.seconds()

    def count(self, name):
        return round(self.median(lambda r: r.counts[name]))

    def requests(self):
        said = ", ".join(f"{self.count(name):,} {name}" for name in REQUESTS if self.count(name))
        return said or "none"


def figure(value, unit, budget=None, at_least=False):
    """Bold: outside of the budget."""
    text = f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2f} {unit}"
    missed = budget is not None and (value < budget if at_least else value > budget)
    return f"**{text}**" if missed else text


def lines_of(step):
    """(title, unit, budget, larger is better, figure of a cell) of each line that a step makes in the table."""
    if step.gib is None:
        yield step.title, "s", step.budget, False, Cell.seconds
        return
    yield step.title, "GB/s", step.budget, True, Cell.gb_per_second
    yield "… its daemon's CPU", "s/GiB", step.cpu_budget, False, Cell.cpu_per_gib
    yield "… its daemon's peak memory", "MiB", step.memory_budget, False, Cell.peak_mib


def table(steps, names, cells):
    """To compare; a figure of pailfs outside of its budget is bold. `cells`: by step id and program."""
    yield "| work | budget | " + " | ".join(names) + " | requests of pailfs |"
    yield "|" + " --- |" * (len(names) + 3)
    for step in steps:
        first = True
        for title, unit, budget, at_least, value_of in lines_of(step):
            row = [title, "" if budget is None else f"{budget:g} {unit}"]
            for name in names:
                cell = cells[step.id, name]
                ours = budget if name == "pailfs" else None
                row.append(cell.failure if cell.failure else figure(value_of(cell), unit, ours, at_least))
            ours = cells.get((step.id, "pailfs"))
            row.append(ours.requests() if first and ours and not ours.failure else "")
            first = False
            yield "| " + " | ".join(row) + " |"


def details(steps, names, cells):
    """Every figure."""
    yield "| row | program | seconds | requests | MiB asked for | GETs at once | CPU s | peak MiB |"
    yield "|" + " --- |" * 8
    for step in steps:
        for name in names:
            cell = cells[step.id, name]
            if cell.failure:
                yield f"| `{step.id}` | {name} | {cell.failure} | | | | | |"
                continue
            asked = cell.count("bytes_asked") / (1 << 20)
            figures = [f"{cell.seconds():.2f}", cell.requests(), f"{asked:,.1f}", str(cell.count("gets_at_once")),
                       f"{cell.cpu_seconds():.2f}", f"{cell.peak_mib():,.0f}"]
            yield f"| `{step.id}` | {name} | " + " | ".join(figures) + " |"


def rewrite(document, text):
    """Puts `text` between the marks of the document."""
    before, found, rest = document.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        raise SystemExit(f"the document lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
