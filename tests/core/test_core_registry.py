import sys

import pytest

from fmcs_bench.backbones.create import BACKBONES
from fmcs_bench.core.errors import PluginError, UnknownNameError
from fmcs_bench.core.registry import Registry
from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.images.base import IMAGE_DATASETS

GROUP = "fmcs_bench.test_colours"


@pytest.fixture
def colours():
    registry = Registry("colour", group=GROUP)
    registry.add("red", 1)
    return registry


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution as pip would: a module and a dist-info folder on the search path."""

    def run(distribution, points, *, group=GROUP, **modules):
        root = tmp_path / distribution
        info = root / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
        for name, source in modules.items():
            (root / f"{name}.py").write_text(source)
            monkeypatch.delitem(sys.modules, name, raising=False)  # of an earlier test
        monkeypatch.syspath_prepend(root)

    return run


def test_names_keep_the_order_of_registration(colours):
    assert colours.register("amber")(7) == 7
    assert colours.names() == list(colours) == ["red", "amber"]
    assert colours["amber"] == 7
    assert "amber" in colours
    assert "blue" not in colours


def test_a_name_is_bound_once(colours):
    with pytest.raises(ValueError, match="colour name 'red' is registered twice"):
        colours.register("red")(2)
    assert colours["red"] == 1


def test_an_unknown_name_comes_with_the_nearest(colours):
    colours.add("green", 2)
    with pytest.raises(UnknownNameError, match=r"^unknown colour 'gren'; did you mean green\?$"):
        colours["gren"]
    with pytest.raises(UnknownNameError, match="known are: green, red"):
        colours["x"]


def test_an_installed_plugin_is_found_and_imported_only_when_asked_for(colours, install):
    install("good-colours", {"blue": "good_colours:BLUE"}, good_colours="BLUE = 42\n")
    install("broken-colours", {"grey": "broken_colours:GREY"}, broken_colours="raise RuntimeError('no paint')\n")
    assert colours.names()[0] == "red"
    assert sorted(colours.names()[1:]) == ["blue", "grey"]
    assert "blue" in colours
    assert "good_colours" not in sys.modules
    assert colours["blue"] == 42


@pytest.mark.parametrize(
    ("target", "source", "cause"),
    [
        ("paint:GREY", "raise RuntimeError('no paint')\n", RuntimeError),
        ("paint:GREY", "BLUE = 1\n", AttributeError),
        ("paint:GREY", "this is no Python\n", SyntaxError),
        ("not_there:GREY", "", ModuleNotFoundError),
    ],
)
def test_a_plugin_that_cannot_be_loaded_keeps_its_cause(colours, install, target, source, cause):
    install("paint", {"grey": target}, paint=source)
    with pytest.raises(PluginError, match=f"colour plug-in 'grey' \\({target}\\) cannot be loaded") as caught:
        colours["grey"]
    assert type(caught.value.__cause__) is cause
    assert colours["red"] == 1


def test_a_plugin_cannot_take_a_name_of_ours(colours, install):
    install("thief", {"red": "thief:RED"}, thief="RED = 666\n")
    assert colours["red"] == 1
    with pytest.raises(PluginError, match=r"thief offers the colour 'red', but that name is taken"):
        colours.names()


def test_two_plugins_cannot_share_a_name(colours, install):
    install("first-blue", {"blue": "first_blue:BLUE"}, first_blue="BLUE = 1\n")
    install("second-blue", {"blue": "second_blue:BLUE"}, second_blue="BLUE = 2\n")
    with pytest.raises(PluginError, match=r"(first|second)-blue offers the colour 'blue', but that name is taken"):
        colours["blue"]


@pytest.mark.parametrize("registry", [BACKBONES, EVALUATORS, IMAGE_DATASETS])
def test_our_registries_take_plugins_under_their_own_group(registry, install):
    install("extra", {"extra-thing": "extra_thing:MAKE"}, group=registry.group, extra_thing="MAKE = len\n")
    assert registry["extra-thing"] is len
    assert registry.names()[-1] == "extra-thing"
