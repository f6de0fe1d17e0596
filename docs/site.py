"""What MkDocs needs to show files of the tree that lie beside docs/.

A page of docs/ links to them as on GitHub. Those that the site shows keep their paths;
of the others the link becomes the file's name.
"""

import pathlib
import posixpath
import re

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
SHOWN = ["CHANGELOG.md", "SECURITY.md", "export/page.png"]
SHOWN += [f"benchmarks/{name}" for name in ("RESULTS.md", "results.png", "growth.png")]
SHOWN += [f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")]


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files, config):
    """Add the files beside docs/, and README.md as the home page."""
    for name in [*SHOWN, "README.md"]:
        file = File(name, str(ROOT), config.site_dir, config.use_directory_urls)
        files.append(file)
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead links to what the site shows, and refuse those that lead nowhere."""
    source = page.file.src_uri
    folder = "docs" if (ROOT / "docs" / source).exists() else posixpath.dirname(source)

    def rewritten(link):
        path, _, heading = link.partition("#")
        if not path or re.match(r"\w+:", path):
            return link
        place = posixpath.normpath(posixpath.join(folder, path))
        if not (ROOT / place).exists():
            raise FileNotFoundError(f"{source} links to {place}, which does not exist.")
        place = place.removeprefix("docs/")
        if not files.get_file_from_path(place):
            return None
        here = posixpath.dirname(source) or "."
        return posixpath.relpath(place, here) + (heading and f"#{heading}")

    def markdown_link(match):
        link = rewritten(match[2])
        return f"`{match[1].strip('`')}`" if link is None else f"[{match[1]}]({link})"

    def image(match):
        return f"{match[1]}{_address(rewritten(match[2]), page)}{match[3]}"

    markdown = re.sub(r'(<img src=")([^"]+)(")', image, markdown)
    return re.sub(
        r"(?<!!)\[([^\]<]+|<img[^>]+>)\]\(([^)\s]+)\)", markdown_link, markdown
    )


def _address(link, page):
    """The address of a file from the page's own: HTML's, which MkDocs leaves alone."""
    target = posixpath.normpath(
        posixpath.join(posixpath.dirname(page.file.src_uri), link)
    )
    return posixpath.relpath(target, posixpath.dirname(page.file.dest_uri) or ".")
