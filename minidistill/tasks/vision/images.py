"""Load the images that prompts are about: scenes, which are drawn, and the files of strangers."""

import hashlib
import warnings
from pathlib import Path

from minidistill.tasks import read_records
from minidistill.tasks.vision import scenes
from minidistill.tasks.vision.scenes import SCENE
from minidistill.utils import missing_extra_message

MAX_PIXELS = 2**26
MAX_ASPECT_RATIO = 40  # a processor scales the short side up to its own


def content_hash(image: str) -> str:
    """Identify an image in a fingerprint: by the scene itself, or by the hash of the file's bytes."""
    if image.startswith(SCENE):
        return image
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def load_image(image: str):
    """Load an image as RGB: a scene is drawn, a file is read (ValueError as `open_image`)."""
    return scenes.render(image) if image.startswith(SCENE) else open_image(Path(image))


def validate_image(image: str) -> None:
    """Raise ValueError, one sentence, for what `load_image` could not load; a scene is not drawn for it."""
    scenes.parse_scene(image) if image.startswith(SCENE) else open_image(Path(image))


def resolve_image(image: str, folder: Path) -> str:
    """Find what a JSONL file in `folder` calls `image`: a scene, or a file's path; ValueError as above."""
    if "://" in image:
        raise ValueError(f"{image}: pictures are not fetched; give the path of a file")
    found = image if image.startswith(SCENE) else str(folder / image)
    validate_image(found)
    return found


def check_images(path: Path, wanted: bool) -> None:
    """Raise ValueError with file and line unless each prompt of a JSONL file has an image, or none has."""
    for where, record in read_records(path):
        if isinstance(record, dict) and bool(record.get("image")) != wanted:
            raise ValueError(
                f"{where}: no field 'image', and these models want a picture"
                if wanted
                else f"{where}: a field 'image', and these models read text alone"
            )


def open_image(path: Path):
    """Open any image file as RGB: upright, transparent parts on white, of an animation the first frame.

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
            raise ValueError(f"{path}: more than {MAX_PIXELS:,} pixels") from None
        except ValueError as error:
            raise ValueError(
                str(error) if str(path) in str(error) else f"{path}: {error}"
            ) from None
        except Exception as error:  # a decoder fed with a damaged file may raise anything
            raise ValueError(f"{path}: cannot be decoded ({error})") from None


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: {width} × {height} is more than {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(
            f"{path}: {width} × {height} pixels is too narrow (1 : {MAX_ASPECT_RATIO} at most)"
        )


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
