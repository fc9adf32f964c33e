"""`aisle heatmap`: the cosines of chosen texts as a picture and a page."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

import aisle
from aisle.cli import main
from aisle.commands.heatmap import _of_unit_norm

TEXTS = ["a red sofa", "a sofa in $red$", "<b>a garden & chair</b>"]


@pytest.fixture
def draw(tiny_bert, tmp_path, capsys):
    """Return a function that runs the command and returns its JSON document, or its error."""

    def run(*arguments):
        folder = tmp_path / "map"
        status = main(
            [
                "heatmap",
                *map(str, arguments),
                "--model",
                str(tiny_bert),
                "--output_dir",
                str(folder),
                "--json",
            ]
        )
        out, err = capsys.readouterr()
        return (json.loads(out) if status == 0 else err), folder

    return run


def cells_of(page):
    return [
        float(cell.replace("\u2212", "-")) for cell in re.findall(r'<td class="heat-\d">([^<]+)</td>', page)
    ]


def test_each_text_is_compared_with_each_other(draw, tiny_bert):
    document, folder = draw(*TEXTS)
    embeddings = aisle.load_encoder(tiny_bert).encode_queries(TEXTS)
    assert np.allclose(document["cosines"], embeddings @ embeddings.T, atol=1e-6)
    assert document["rows"] == document["columns"] == TEXTS

    page = (folder / "heatmap.html").read_text(encoding="utf-8")
    assert np.allclose(cells_of(page), np.ravel(document["cosines"]), atol=6e-4)
    assert "&lt;b&gt;a garden &amp; chair&lt;/b&gt;" in page
    assert "<b>a garden" not in page
    assert (folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    words = "".join(ElementTree.parse(folder / "heatmap.svg").getroot().itertext())
    assert all(text in words for text in TEXTS)
    assert sorted(path.name for path in folder.iterdir()) == ["heatmap.html", "heatmap.png", "heatmap.svg"]


def test_embeddings_of_any_norm_are_compared_by_their_cosine():
    found = _of_unit_norm(np.array([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]]))

    assert np.allclose(found @ found.T, [[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.0]])


def test_files_give_texts_and_products(draw, tmp_path, tiny_bert):
    (tmp_path / "texts.txt").write_text("a red sofa\n\n  a blue lamp \n", encoding="utf-8")
    (tmp_path / "products.txt").write_text("Sofa\nLamp\nDesk\n", encoding="utf-8")
    files = ("--texts_file", tmp_path / "texts.txt", "--products_file", tmp_path / "products.txt")
    document, _ = draw("a desk", *files, "--product_prompt", "passage: ")
    assert document["rows"] == ["a desk", "a red sofa", "a blue lamp"]
    assert document["columns"] == ["Sofa", "Lamp", "Desk"]
    encoder = aisle.load_encoder(tiny_bert)
    products = encoder.encode_products([f"passage: {text}" for text in document["columns"]])
    assert np.allclose(document["cosines"], encoder.encode_queries(document["rows"]) @ products.T, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no text: give texts, or --texts_file"),
        ((" ",), "a text is blank"),
        (("--texts_file", "gone.txt"), "--texts_file gone.txt: there is no such file"),
        (tuple(f"text {number}" for number in range(51)), "51 texts: a heat map has at most 50"),
    ],
)
def test_texts_that_cannot_be_drawn_are_one_message(draw, arguments, message):
    error, folder = draw(*arguments)
    assert message in error
    assert "Traceback" not in error
    assert not folder.exists()


def write_font(path, family, characters):
    """Write a font in which each of the characters is a filled square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(char): "square" for char in characters})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def install_font(tmp_path, monkeypatch):
    """Return a function that installs a font with some characters for this test."""
    from matplotlib import font_manager

    from aisle.reporting.html import fonts

    def install(family, characters):
        path = tmp_path / f"{family}.ttf"
        write_font(path, family, characters)
        entry = font_manager.ttfFontProperty(font_manager.get_font(path))
        monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist, entry])

    yield install
    for cached in (fonts._known, fonts.characters_of, font_manager.fontManager._findfont_cached):
        cached.cache_clear()


def test_characters_that_the_usual_font_lacks_are_drawn_with_installed_fonts(install_font, draw):
    from aisle.reporting.html.fonts import FIRST_FONT, families_for, without_font

    assert families_for(["sofa $5"]) == (FIRST_FONT,)
    install_font("One", "\ue801")
    install_font("Two", "\ue801\ue802")
    assert families_for(["a \ue801", "\ue802 sofa"]) == (FIRST_FONT, "Two")
    assert without_font(["a \ue801\ue803", "\ue803\ue802 sofa"]) == "\ue803"

    _, folder = draw("a \ue801 sofa", "a \ue803 lamp")

    words = "".join(ElementTree.parse(folder / "heatmap.svg").getroot().itertext())
    assert "a \ue801 sofa" in words
    assert "a \u25a1 lamp" in words


def test_characters_without_a_font_are_logged_once(draw, tiny_bert, tmp_path, capsys):
    flags = ["--model", str(tiny_bert), "--output_dir", str(tmp_path / "map")]
    assert main(["heatmap", "a \ue901 sofa", "\ue901\ue902", *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("no installed font has 2 of the characters, which are squares in the pictures") == 1
