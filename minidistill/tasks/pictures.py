"""Prompts that come with a picture, and how a stranger's picture file is opened."""

import hashlib
import warnings
from pathlib import Path

from minidistill.utils import missing_extra_message

SCENE = "scene:"  # how the name of a picture begins that is drawn, not read from a file
MOST_PIXELS = 2**26
LONGEST = 40  # times as long as wide: a processor scales the short side up to its own


class Seen(str):
    """A prompt about a picture: its text, and `image`, what is shown: a scene, or the path of a file.

    It is the text wherever a text is wanted; two are the same only if text and picture are.
    """

    image: str

    def __new__(cls, text: str, image: str):
        seen = super().__new__(cls, text)
        seen.image = image
        return seen

    def __getnewargs__(self):
        return str(self), self.image

    def __eq__(self, other) -> bool:
        return str.__eq__(self, other) and image_of(other) == self.image

    def __ne__(self, other) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((str(self), self.image))

    def __repr__(self) -> str:
        return f"{str.__repr__(self)} about {self.image}"


def image_of(prompt: str) -> str | None:
    """What the prompt shows; None for one that is text alone."""
    return getattr(prompt, "image", None)


def identity(image: str) -> str:
    """What a picture is, for a fingerprint: the scene itself, or the hash of a file's content."""
    if image.startswith(SCENE):
        return image
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def picture(image: str):
    """The picture itself, as RGB: a scene is drawn, a file is read (ValueError as `open_picture`)."""
    from minidistill.tasks import scenes

    return scenes.render(image) if image.startswith(SCENE) else open_picture(Path(image))


def check_picture(image: str) -> None:
    """ValueError, one sentence, for what `picture` could not show; a scene is only read, not drawn."""
    from minidistill.tasks import scenes

    scenes.read(image) if image.startswith(SCENE) else open_picture(Path(image))


def open_picture(path: Path):
    """Any picture file as RGB: upright, transparent parts on white, of an animation the first frame.

    ValueError, one sentence that names the file, for one that is missing, empty, cut short, no picture,
    too large to be decoded, or so narrow that scaling it would fill the memory.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ModuleNotFoundError(missing_extra_message("pillow", "adapt")) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a size that is checked here; of odd metadata
        try:
            with Image.open(path) as image:
                _check_size(path, *image.size)
                return _rgb(image)
        except Image.UnidentifiedImageError:
            raise ValueError(f"{path}: not a picture that can be read") from None
        except Image.DecompressionBombError:
            raise ValueError(f"{path}: more than {MOST_PIXELS:,} pixels") from None
        except ValueError as error:
            raise ValueError(
                str(error) if str(path) in str(error) else f"{path}: {error}"
            ) from None
        except Exception as error:  # a decoder fed with a damaged file may raise anything
            raise ValueError(f"{path}: cannot be decoded ({error})") from None


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{path}: {width} × {height} is more than {MOST_PIXELS:,} pixels")
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(f"{path}: {width} × {height} pixels is too narrow (1 : {LONGEST} at most)")


def _rgb(image):
    """Upright RGB of what is on the disk in any mode; sixteen bits are scaled, not cut off."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        low, high = image.getextrema()
        top = 65535 if image.mode.startswith("I") and high > 255 else max(255, high)
        image = image.convert("F").point(lambda v: v * (255 / top)).convert("L")
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
