"""The TensorRT builder: names that every version has, and real engines of the library for RTX."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_gpu import VERSIONS, FakeTensorrt, names_of
from needs import require
from onnx import TensorProto, helper, numpy_helper

import build
import edgecl.exporters.tensorrt as module
from edgecl.backbones import load_backbone
from edgecl.errors import (
    IntegrityError,
    MissingPackageError,
    ParityError,
    ProviderError,
    RequestError,
    UsageError,
)
from edgecl.exporters.bundle import export_bundle
from edgecl.exporters.fused import fuse
from edgecl.exporters.graph import to_half
from edgecl.exporters.onnx import export_backbone
from edgecl.exporters.parity import Parity
from edgecl.exporters.quantize import calibrate, quantise_model
from edgecl.exporters.tensorrt import (
    Settings,
    build_again,
    build_engine,
    check_parity,
    compare_engines,
    compile_model,
    profile_shapes,
    timing_cache_of,
    trtexec_line,
)
from edgecl.home import Home
from edgecl.runtime import Predictor
from edgecl.runtime.adapters import zeros
from edgecl.runtime.bundle import open_bundle, read_manifest
from edgecl.runtime.engines.cuda import device_memory, gpu_here
from edgecl.runtime.engines.onnx import OnnxEngine, has_cuda_driver
from edgecl.runtime.engines.tensorrt import (
    Compiled,
    EngineKey,
    TensorrtEngine,
    import_tensorrt,
)
from edgecl.runtime.mixture import MixedScorer, Opinion
from edgecl.runtime.scoring import LinearScorer
from edgecl.session import Session, open_store
from edgecl.store.exports import exports_of

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "exporters/tensorrt.py", ROOT / "runtime/engines/tensorrt.py")
# What the two files call the library's objects.
VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
}
ENGINE_OF_OURS = {"image_size", "run"}  # `engine` is also what compares two of our own


# Names


def used_names() -> Iterator[tuple[str, str]]:
    """Yield class and member of every name of the library that the two files use."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            words = re.findall(r"\w+", ast.unparse(node).split("(")[0]) or [
                ""
            ]  # `a.b().c` is `a.b`
            if words[0] == "trt":
                yield words[1], ".".join(words[2:])
            elif words[0] == "self" and words[1] in VARIABLES and len(words) == 3:
                yield VARIABLES[words[1]], words[2]
            elif words[0] in VARIABLES and words[1] not in ENGINE_OF_OURS:
                yield VARIABLES[words[0]], words[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_of_the_library_exists_in_each_version(version: str) -> None:
    names = names_of(version) | {"__version__": set()}
    found = {(kind, member) for kind, member in used_names() if member != "__init__"}
    assert len(found) > 40
    missing = [
        f"{kind}.{member}"
        for kind, member in found
        if kind not in names or (member and member not in names[kind])
    ]
    assert not missing


# One path for every version


def building(version: str, **answers: Any) -> FakeTensorrt:
    inputs = [("pixels", (-1, 3, 64, 64)), ("adapter", (16, 40))]

    def tensor(i: int) -> Any:
        found = library.new("ITensor")
        library._answers["ITensor.name"], library._answers["ITensor.shape"] = inputs[i]
        return found

    library = FakeTensorrt(
        version,
        {
            "Builder.create_network": lambda flags: library.new("INetworkDefinition"),
            "Builder.create_builder_config": lambda: library.new("IBuilderConfig"),
            "Builder.create_optimization_profile": lambda: library.new("IOptimizationProfile"),
            "Builder.build_serialized_network": lambda network, config: b"plan",
            "OnnxParser.parse": lambda model: True,
            "INetworkDefinition.num_inputs": len(inputs),
            "INetworkDefinition.get_input": tensor,
            "IBuilderConfig.create_timing_cache": lambda data: data,
            "IBuilderConfig.set_timing_cache": lambda cache, ignore_mismatch: True,
            "IBuilderConfig.get_timing_cache": lambda: library.new("ITimingCache"),
            "ITimingCache.serialize": lambda: b"timings",
            **answers,
        },
    )
    return library


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_code_drives_each_version(version: str, tmp_path: Path) -> None:
    trt = building(version)
    cache = tmp_path / "timing.cache"
    plan = build_engine(
        trt,
        b"model",
        max_batch=6,
        workspace_mb=3,
        timing_cache=cache,
        version_compatible=True,
        hardware_compatible=True,
    )
    assert plan == b"plan"
    flag = 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.called("Builder.create_network") == [(flag,)]
    assert trt.called("OnnxParser.parse") == [(b"model",)]
    workspace = (trt.MemoryPoolType.WORKSPACE, 3 * 1024 * 1024)
    assert trt.called("IBuilderConfig.set_memory_pool_limit") == [workspace]
    assert trt.called("IBuilderConfig.clear_flag") == [(trt.BuilderFlag.TF32,)]
    assert trt.called("IBuilderConfig.set_flag") == [(trt.BuilderFlag.VERSION_COMPATIBLE,)]
    level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert trt.called("IBuilderConfig.hardware_compatibility_level") == [(level,)]
    assert trt.called("IOptimizationProfile.set_shape") == [
        ("pixels", (1, 3, 64, 64), (1, 3, 64, 64), (6, 3, 64, 64)),
        ("adapter", (16, 40), (16, 40), (16, 40)),
    ]
    assert len(trt.called("IBuilderConfig.add_optimization_profile")) == 1
    assert cache.read_bytes() == b"timings"
    build_engine(trt, b"model", timing_cache=cache)
    assert trt.called("IBuilderConfig.create_timing_cache") == [(b"",), (b"timings",)]


def test_timings_of_another_gpu_are_dropped(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"foreign")
    trt = building(
        "11.4.0.106",
        **{"IBuilderConfig.set_timing_cache": lambda cache, ignore_mismatch: cache != b"foreign"},
    )
    build_engine(trt, b"model", timing_cache=cache)
    assert trt.called("IBuilderConfig.create_timing_cache") == [(b"foreign",), (b"",)]
    assert cache.read_bytes() == b"timings"


def test_only_the_outermost_phase_is_told() -> None:
    told: list[str] = []

    def run(network: Any, config: Any) -> bytes:
        (progress,) = trt.called("IBuilderConfig.progress_monitor")[0]
        progress.phase_start("Building", None, 4)
        progress.phase_start("inner", "Building", 9)
        assert progress.step_complete("inner", 3)
        progress.phase_finish("inner")
        assert progress.step_complete("Building", 0)
        assert progress.step_complete("Building", 3)
        progress.phase_finish("Building")
        return b"plan"

    trt = building("10.13.3.9", **{"Builder.build_serialized_network": run})
    build_engine(trt, b"model", tell=told.append)
    assert told == ["Building, 25 %", "Building, 100 %"]


def test_every_refused_node_is_named() -> None:
    def problem(i: int) -> Any:
        answers = library._answers
        answers["ParserError.node_name"] = lambda: f"node_{i}"
        answers["ParserError.node_operator"] = lambda: "Resize"
        answers["ParserError.desc"] = lambda: "not\n  known"
        return library.new("ParserError")

    library = building(
        "10.16.1.11",
        **{
            "OnnxParser.parse": lambda model: False,
            "OnnxParser.num_errors": 10,
            "OnnxParser.get_error": problem,
        },
    )
    with pytest.raises(RequestError) as caught:
        build_engine(library, b"model")
    text = str(caught.value)
    assert "\n" not in text
    assert "10.16.1.11 cannot read" in text
    assert "node Resize node_0: not known" in text
    assert "Resize node_7" in text
    assert "2 more" in text


def test_a_build_that_fails_says_what_to_change() -> None:
    trt = building("10.13.3.9", **{"Builder.build_serialized_network": lambda *_: None})
    with pytest.raises(RequestError, match="--workspace-mb"):
        build_engine(trt, b"model")


def test_a_library_that_finds_no_gpu_is_told() -> None:
    def null(*_: Any) -> Any:
        raise TypeError("factory function returned nullptr")

    with pytest.raises(ProviderError, match="--flavour rtx"):
        build_engine(building("10.13.3.9", **{"Builder()": null}), b"model")


def test_an_option_that_the_library_lacks_is_refused() -> None:
    trt = building("11.4.0.106")
    trt.names["BuilderFlag"] -= {"VERSION_COMPATIBLE"}
    trt.names.pop("HardwareCompatibilityLevel")
    with pytest.raises(UsageError, match=r"has no BuilderFlag\.VERSION_COMPATIBLE"):
        build_engine(trt, b"model", version_compatible=True)
    with pytest.raises(UsageError, match=r"has no HardwareCompatibilityLevel\.AMPERE_PLUS"):
        build_engine(trt, b"model", hardware_compatible=True)


def test_only_the_batch_may_be_dynamic() -> None:
    trt = building("11.4.0.106")
    network = trt.new("INetworkDefinition")
    trt._answers["INetworkDefinition.get_input"] = lambda i: trt.new("ITensor")
    trt._answers["ITensor.name"], trt._answers["ITensor.shape"] = "pixels", (-1, 3, -1, 64)
    with pytest.raises(RequestError, match="only the batch may be dynamic"):
        profile_shapes(network, 4)


@pytest.mark.parametrize(
    ("flavour", "version", "device", "words"),
    [
        ("full", "10.13.3.9", "Orin sm_87", ["trtexec", "--stronglyTyped"]),
        ("full", "11.4.0.106", "Orin sm_87", ["trtexec"]),
        ("full", "10.16.1.11+", "sm_80+", ["--hardwareCompatibilityLevel=ampere+",
                                           "--versionCompatible", "--stronglyTyped"]),
        ("rtx", "1.7.1.116", "sm_80+", ["tensorrt_rtx"]),
    ],
)  # fmt: skip
def test_the_line_for_the_librarys_own_tool(
    flavour: str, version: str, device: str, words: list[str]
) -> None:
    key = EngineKey("0" * 64, flavour, version, device, "fp32")
    settings = Settings(flavour, max_batch=6, workspace_mb=3)
    line = trtexec_line(key, settings, "a.onnx", image_size=64).split()
    always = {"--onnx=a.onnx", "--saveEngine=a.engine", "--noTF32",
              "--minShapes=pixels:1x3x64x64", "--optShapes=pixels:1x3x64x64",
              "--maxShapes=pixels:6x3x64x64", "--memPoolSize=workspace:3"}  # fmt: skip
    assert always <= set(line)
    assert set(line) - always == {*words, "trtexec" if flavour == "full" else "tensorrt_rtx"}


@pytest.mark.parametrize(
    ("parity", "precision", "is_fine"),
    [
        (Parity(9e-5, 1e-6, 1.0, 8), "fp32", True),
        (Parity(2e-4, 1e-6, 1.0, 8), "fp32", False),
        (Parity(float("nan"), 1e-6, 1.0, 8), "fp32", False),
        (Parity(2e-4, 1e-6, 1.0, 8, rms=3.0), "fp32", True),
        (Parity(9e-5, 1e-6, 1.0, 8, rms=float("nan")), "fp32", True),
        (Parity(0.1, 0.01, 0.9996, 8), "fp16", True),
        (Parity(0.1, 0.01, 0.9994, 8), "fp16", False),
        (Parity(0.1, 0.01, float("nan"), 8), "fp16", False),
        (Parity(0.9, 0.01, 0.981, 8), "int8", True),
        (Parity(0.9, 0.01, 0.979, 8), "int8", False),
    ],
)
def test_an_engine_too_far_from_its_model_is_refused(
    parity: Parity, precision: str, is_fine: bool
) -> None:
    if is_fine:
        check_parity(parity, precision)
    else:
        with pytest.raises(ParityError, match=r"at (most|least)"):
            check_parity(parity, precision)


# Real engines


@pytest.fixture(scope="module")
def rtx() -> Any:
    try:
        return import_tensorrt("rtx")
    except MissingPackageError as error:
        require(False, f"pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs ({error})")


def model_of(home: Path) -> bytes:
    found = Home(home)
    return found.engine_bytes(has_adapters=found.has_adapters)


def as_int8(model: bytes) -> bytes:
    """Return a model quantised on noise for TensorRT."""
    engine = OnnxEngine(model, provider="cpu")
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (4, 3, 64, 64)).astype(np.float32)
    shapes = engine.adapter_shapes.items()
    adapter = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes}
    return quantise_model(calibrate(model, lambda: [pixels], [adapter]), "trt")


def test_lite0_is_built(rtx: Any, made_home: Path) -> None:
    told: list[str] = []
    model = model_of(made_home)
    plan = build_engine(rtx, model, max_batch=4, tell=told.append)
    assert len(plan) > len(model)  # weights are in it
    assert told


def test_lite0_with_adapters_is_built(rtx: Any, adapted_home: Path) -> None:
    assert len(build_engine(rtx, model_of(adapted_home))) > 10_000_000


def test_half_precision_in_the_file_is_half_precision_in_the_engine(
    rtx: Any, adapted_home: Path
) -> None:
    model = model_of(adapted_home)
    assert len(build_engine(rtx, to_half(model))) < 0.8 * len(build_engine(rtx, model))


def test_an_int8_model_with_adapters_is_built(rtx: Any, adapted_home: Path) -> None:
    assert len(build_engine(rtx, as_int8(model_of(adapted_home)))) > 5_000_000


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_fused_file_is_built_for_pictures_of_one_size(
    rtx: Any, adapted_home: Path, precision: str
) -> None:
    home = Home(adapted_home)
    model = model_of(adapted_home)
    model = {"fp32": bytes, "fp16": to_half, "int8": as_int8}[precision](model)
    d = home.manifest.num_features
    head = LinearScorer(np.ones((d, 2)), np.zeros(2), ("a", "b"), "logits")
    scorer = MixedScorer(head, 10.0, (Opinion(head, 0.7),))
    zero = zeros(OnnxEngine(model, provider="cpu").adapter_shapes)
    proto = onnx.load_from_string(fuse(model, home.manifest.preprocessing, scorer, [zero]))
    sides = proto.graph.input[0].type.tensor_type.shape.dim
    sides[1].dim_value, sides[2].dim_value = 48, 80
    assert len(build_engine(rtx, proto.SerializeToString())) > 1_000_000


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("vit")
    backbone = load_backbone("vit_tiny_patch16_224", weights="random", image_size=64)
    export_backbone(backbone, folder, adapter_rank=8)
    return (folder / "backbone.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_transformer_with_adapters_is_built(rtx: Any, vit: bytes, precision: str) -> None:
    model = {"fp32": bytes, "fp16": to_half, "int8": as_int8}[precision](vit)
    assert len(build_engine(rtx, model)) > 5_000_000


def small_model(*, mixed: bool = False, unknown: bool = False) -> bytes:
    """Return a model of one named node: a sum, of two types, or of a kind that nobody knows."""
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    a = helper.make_tensor_value_info("pixels", half if mixed else full, ["batch", 3])
    b = helper.make_tensor_value_info("features", full, ["batch", 3])
    one = numpy_helper.from_array(np.ones(3, np.float32), "one")
    node = helper.make_node("Nobody" if unknown else "Add", ["pixels", "one"], ["features"], "sum")
    graph = helper.make_graph([node], "small", [a], [b], [one])
    opsets = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())


def test_the_parser_names_the_node_that_it_refuses(rtx: Any) -> None:
    with pytest.raises(RequestError, match="node Nobody sum: ") as caught:
        build_engine(rtx, small_model(unknown=True))
    assert "\n" not in str(caught.value)


def test_the_network_is_strongly_typed(rtx: Any) -> None:
    build_engine(rtx, small_model())
    with pytest.raises(RequestError, match="sum"):
        build_engine(rtx, small_model(mixed=True))


def test_what_is_no_model_is_refused(rtx: Any) -> None:
    with pytest.raises(RequestError, match="cannot read the ONNX file"):
        build_engine(rtx, b"no model")


def test_an_engine_knows_what_it_was_built_from(rtx: Any) -> None:
    model = small_model()
    if has_cuda_driver():
        pytest.skip("there is a GPU, on which this model would be compared with a backbone")
    found = compile_model(model, Settings("rtx"))
    digest = hashlib.sha256(model).hexdigest()
    assert found.key == EngineKey(digest, "rtx", rtx.__version__, "sm_80+", "fp32")
    assert found.parity == {}
    assert found.settings == asdict(Settings("rtx"))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="expected fp32, fp16, int8"):
        Settings(precision="int4")
    with pytest.raises(UsageError, match="expected full, rtx"):
        Settings(flavour="lean")


# The command


@pytest.fixture(scope="module")
def exported(
    rtx: Any, taught_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """A home, a bundle with an engine that it wrote, and what the command told."""
    place = tmp_path_factory.mktemp("exported")
    shutil.copytree(taught_home, place / "home")
    done = build.run_edgecl(
        "export", "tensorrt", "--flavour", "rtx", "--max-batch", 4, "--output", place / "bundle",
        "--home", place / "home", "--json",
    )  # fmt: skip
    return place / "home", place / "bundle", build.last_json(done)


def test_the_command_writes_a_bundle_with_model_and_engine(
    exported: tuple[Path, Path, dict[str, Any]], rtx: Any
) -> None:
    home, bundle, told = exported
    assert told["trtexec"].startswith("tensorrt_rtx --onnx=backbone.onnx")
    assert "pixels:4x3x64x64" in told["trtexec"]
    assert (told["library"], told["device"]) == (rtx.__version__, "sm_80+")
    assert {p.name for p in bundle.iterdir()} == {
        "backbone.engine", "backbone.onnx", "head.safetensors", "manifest.json"
    }  # fmt: skip
    values = read_manifest(bundle)
    assert (values["kind"], values["precision"]) == ("tensorrt", "fp32")
    assert set(values["files"]) == {p.name for p in bundle.iterdir()} - {"manifest.json"}
    found = open_bundle(bundle).compiled
    assert found is not None
    assert found.plan == (bundle / "backbone.engine").read_bytes()
    assert found.key.model_sha256 == Home(home).manifest.engine_sha256
    assert not timing_cache_of(Home(home)).exists()


def test_its_onnx_file_predicts_as_the_home(
    exported: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, bundle, _ = exported
    build.part_picture("washer", 70).save(tmp_path / "a.png")
    words = ("predict", tmp_path / "a.png", "--provider", "cpu", "--json")
    ours = build.run_edgecl(*words, "--bundle", bundle)
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout == build.run_edgecl(*words, "--home", home).stdout


def test_where_no_gpu_is_the_bundle_says_so_unless_it_may_fall_back(
    exported: tuple[Path, Path, dict[str, Any]],
) -> None:
    if has_cuda_driver():
        pytest.skip("there is a GPU driver")
    for provider in ("auto", "tensorrt"):
        with pytest.raises(ProviderError, match=r"libcuda\.so\.1"):
            Predictor(exported[1], provider=provider)
    assert Predictor(exported[1], allow_fallback=True).engine.provider == "cpu"


def test_a_stale_bundle_is_written_anew_with_the_engine_that_it_had(
    exported: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, bundle = tmp_path / "home", tmp_path / "bundle"
    shutil.copytree(exported[0], home)
    kept = open_bundle(exported[1]).compiled
    assert kept is not None
    write(Home(home), bundle, lambda model: kept)
    build.run_edgecl("forget", "class", "washer", "--home", home, "--json")
    assert sorted(p.name for p in bundle.iterdir()) == [
        "backbone.engine", "backbone.onnx", "manifest.json"
    ]  # fmt: skip
    with pytest.raises(IntegrityError, match="revoked"):
        open_bundle(bundle)
    again = build.last_json(build.run_edgecl("export", "--rebuild-stale", "--home", home, "--json"))
    assert str(bundle) in [entry["path"] for entry in again["rebuilt"]]
    found = open_bundle(bundle)
    assert found.compiled == kept
    assert "washer" not in found.scorer.labels


def write(home: Home, folder: Path, make: Callable[[bytes], Compiled]) -> None:
    with home.lock(), open_store(home) as store:
        with store.snapshot():
            scorer, adapters = Session(home, store).served()
        export_bundle(home, store, scorer, adapters, folder, build=make)


@pytest.mark.parametrize("change", ["bytes", "gone", "model"])
def test_an_engine_that_does_not_fit_is_built_anew(
    change: str, exported: tuple[Path, Path, dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, model = tmp_path / "bundle", (exported[1] / "backbone.onnx").read_bytes()
    shutil.copytree(exported[1], folder)
    with open_store(Home(exported[0])) as store:
        export = replace(exports_of(store)[0], path=folder)
    asked: list[Settings] = []

    def compile_again(model: bytes, settings: Settings, **_: Any) -> Any:
        asked.append(settings)
        return "new"

    monkeypatch.setattr(module, "compile_model", compile_again)
    make = build_again(export, tmp_path / "cache")
    assert make is not None
    assert make(model) == open_bundle(exported[1]).compiled
    assert asked == []
    if change == "model":
        model += b"x"
    elif change == "bytes":
        (folder / "backbone.engine").write_bytes(b"other")
    else:
        (folder / "backbone.engine").unlink()
    assert make(model) == "new"
    assert asked == [Settings("rtx", max_batch=4)]
    assert build_again(replace(export, kind="onnx"), tmp_path / "cache") is None


def test_an_engine_file_that_was_changed_or_is_not_listed_is_refused(
    exported: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[1], folder)
    (folder / "backbone.engine").rename(folder / "other.engine")
    with pytest.raises(IntegrityError, match=r"other\.engine is not listed"):
        Predictor(folder)
    (folder / "other.engine").unlink()
    (folder / "backbone.engine").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="was changed"):
        Predictor(folder)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_engine_is_built_from_the_model_of_its_precision(
    precision: str, rtx: Any, taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home, bundle = copy_of(taught_home), tmp_path / "bundle"
    done = build.run_edgecl(
        "export", "tensorrt", "--flavour", "rtx", "--precision", precision, "--output", bundle,
        "--home", home, "--json",
    )  # fmt: skip
    assert build.last_json(done)["precision"] == precision
    found = open_bundle(bundle)
    assert found.compiled is not None
    assert found.compiled.key.precision == precision
    assert found.compiled.key.model_sha256 == found.manifest.engine_sha256
    assert (
        found.manifest.engine
        == {"fp16": "backbone.fp16.onnx", "int8": "backbone.int8-trt.onnx"}[precision]
    )
    build.run_edgecl("forget", "class", "washer", "--home", home, "--json")
    # Ranges of an int8 engine were measured on what was learned.
    assert bool(list(bundle.glob("*.engine"))) == (precision == "fp16")
    build.last_json(build.run_edgecl("export", "--rebuild-stale", "--home", home, "--json"))
    again = open_bundle(bundle).compiled
    assert again is not None
    assert (again == found.compiled) == (precision == "fp16")


def test_a_precision_that_no_bundle_has_is_refused(taught_home: Path, tmp_path: Path) -> None:
    words = ("export", "tensorrt", "--output", tmp_path / "b", "--home", taught_home)
    done = build.run_edgecl(*words, "--precision", "int4")
    assert (done.returncode, "expected fp32, fp16, int8" in done.stderr) == (2, True)


def test_a_missing_library_is_told_with_its_extra(taught_home: Path, tmp_path: Path) -> None:
    try:
        import_tensorrt("full")
    except MissingPackageError:
        done = build.run_edgecl(
            "export", "tensorrt", "--output", tmp_path / "b", "--home", taught_home
        )
        assert done.returncode == 3
        assert "pip install 'edgecl[tensorrt]'" in done.stderr
        assert not (tmp_path / "b").exists()
    else:
        pytest.skip("tensorrt is installed")


# On a GPU


@pytest.fixture(scope="module")
def gpu() -> str:
    try:
        return str(gpu_here())
    except ProviderError as error:
        return pytest.skip(str(error))


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["full", "rtx"])
def test_an_engine_on_a_gpu_equals_onnx(gpu: str, flavour: str, adapted_home: Path) -> None:
    try:
        trt = import_tensorrt(flavour)
    except MissingPackageError as error:
        pytest.skip(str(error))
    model = model_of(adapted_home)
    compiled = compile_model(model, Settings(flavour, max_batch=4))
    assert compiled.parity["max_abs"] <= 1e-4
    ours = TensorrtEngine(trt, compiled, device_memory())
    theirs = OnnxEngine(model, provider="cpu")
    rng = np.random.default_rng(3)
    adapter = {
        name: rng.normal(0, 0.05, shape).astype(np.float32)
        for name, shape in theirs.adapter_shapes.items()
    }
    x = rng.uniform(-1, 1, (9, 3, 64, 64)).astype(np.float32)
    for chosen in ((), (adapter,), (adapter, {n: -a for n, a in adapter.items()})):
        gap = ours.with_adapters(*chosen).run(x) - theirs.with_adapters(*chosen).run(x)
        assert np.abs(gap).max() <= 1e-4
    assert compare_engines(theirs, ours).max_abs <= 1e-4
    for seed in range(4):
        one = np.random.default_rng(seed).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
        assert np.abs(ours.run(one) - theirs.run(one)).max() <= 1e-4
    assert (ours.runs.replayed > 0) == (flavour == "full"), ours.runs.plain


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["full", "rtx"])
def test_half_precision_on_a_gpu_is_close_to_onnx(
    gpu: str, flavour: str, adapted_home: Path
) -> None:
    try:
        import_tensorrt(flavour)
    except MissingPackageError as error:
        pytest.skip(str(error))
    half = to_half(model_of(adapted_home))
    compiled = compile_model(half, Settings(flavour, precision="fp16"))
    assert compiled.parity["cosine"] >= 0.9995
