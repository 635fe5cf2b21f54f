"""Has mkdocs read pages where they stand in the repository: a hook of mkdocs.yml."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = (
    "*.md", "LICENSE", "docs/*.md", "benchmarks/*.md", "benchmarks/*.py", "benchmarks/plots/*",
    "dipair_index/models/*/README.md",
)  # fmt: skip
"""The pages of the site, and what they show or link."""


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Replaces what lies in docs/ by all that is shown, under its path in the repository."""
    for file in [each for each in files if each.src_uri.endswith(".md")]:
        files.remove(file)
    for path in sorted(path for pattern in SHOWN for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
