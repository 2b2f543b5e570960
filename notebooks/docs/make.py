"""Build the documentation site: python notebooks/docs/make.py [FOLDER], build/docs by default."""

import sys
from pathlib import Path

import links
import pages

HERE = Path(__file__).resolve().parent


def main(folder):
    """Exit code 0 for a site without a warning and without a dead link."""
    from sphinx.cmd.build import main as sphinx

    source, site = folder / "source", folder / "html"
    try:
        pages.gather(HERE.parents[1], source)
    except FileNotFoundError as error:  # a dead link
        print(error)
        return 1
    code = sphinx(["-q", "-W", "--keep-going", "-c", str(HERE), "-d", str(folder / "doctrees"), str(source), str(site)])
    found = links.faults(site.resolve()) if code == 0 else []
    print("\n".join(found) or (f"The site: {site / 'index.html'}" if code == 0 else "The site was not built."))
    return code or int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")))
