"""What is read from a program for GPUs: a hand-made dump in which every fault is planted once."""

from pathlib import Path

import pytest

from mrcnn_jax.profiling.gpu_programs import Dump, read_dump, read_steps, summarise_gpu_program
from mrcnn_jax.profiling.gpus import GPUS

COST = 'backend_config={"reification_cost":[{"exec_time_us":9,"name":""},{"exec_time_us":1.5,"name":"sol"}]}'
STEP = "jit(step)/shard_map"
CONVOLUTION = 'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv'
HLO = f"""HloModule jit_step

%less (a: f32[], b: f32[]) -> pred[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %lt = pred[] compare(%a, %b), direction=LT
}}

%fused_scatter (p: f32[100,4]) -> f32[100,4] {{
  ROOT %p = f32[100,4]{{1,0}} parameter(0)
}}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {{
  ROOT %s = (s32[], f32[8]{{0}}) parameter(0)
}}

%condition (c: (s32[], f32[8])) -> pred[] {{
  %c = (s32[], f32[8]{{0}}) parameter(0)
  ROOT %known = pred[] constant(true)
}}

ENTRY %main (x: bf16[2,8,8,16], k: bf16[32,3,3,16], y: f32[100,4]) -> f32[100,4] {{
  %x = bf16[2,8,8,16]{{3,2,1,0}} parameter(0)
  %k = bf16[32,3,3,16]{{3,2,1,0}} parameter(1)
  %y = f32[100,4]{{1,0}} parameter(2)
  %conv.1 = (bf16[2,8,8,32]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %k), {CONVOLUTION}Forward", \
metadata={{op_name="{STEP}/jvp(f)/backbone/conv"}}, backend_config={{"reification_cost":[]}}
  %z = bf16[2,8,8,32]{{3,2,1,0}} get-tuple-element(%conv.1), index=0
  %conv.2 = (f32[2,8,8,16]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%z, %k), {CONVOLUTION}BackwardInput", \
metadata={{op_name="{STEP}/transpose(jvp(f))/backbone/conv"}}
  %conv.3 = (bf16[32,3,3,16]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%x, %z), {CONVOLUTION}BackwardFilter", \
metadata={{op_name="{STEP}/transpose(jvp(f))/backbone/conv"}}
  %input_scatter_fusion.2 = f32[100,4]{{1,0}} fusion(%y), kind=kInput, calls=%fused_scatter, \
metadata={{op_name="{STEP}/transpose(jvp(g))/pool_rois/scatter-add"}}, {COST}
  %input_scatter_fusion = f32[100,4]{{1,0}} fusion(%y), kind=kInput, calls=%fused_scatter, \
metadata={{op_name="{STEP}/transpose(jvp(rpn_losses))/scatter-add"}}, {COST}
  %sort.7 = (f32[8,5000]{{1,0}}, s32[8,5000]{{1,0}}) sort(%y, %y), dimensions={{1}}, to_apply=%less, \
metadata={{op_name="{STEP}/jvp(propose)/top_k"}}
  %start = (s32[], f32[8]{{0}}) custom-call(%y), custom_call_target="xla_ffi_python_gpu_callback", \
metadata={{op_name="{STEP}/jvp(propose)/pure_callback"}}
  %while.1 = (s32[], f32[8]{{0}}) while(%start), condition=%condition, body=%body, \
metadata={{op_name="{STEP}/jvp(propose)/suppress_overlaps/while"}}
  %while.2 = (s32[], f32[8]{{0}}) while(%while.1), condition=%condition, body=%body, \
metadata={{op_name="{STEP}/jvp(propose)/scan"}}, backend_config={{"known_trip_count":{{"n":"7"}}}}
  %all-reduce.1 = f32[100,4]{{1,0}} all-reduce(%y), replica_groups={{{{0,1}}}}, to_apply=%less, \
metadata={{op_name="{STEP}/psum"}}
  ROOT %copy.9 = f32[100,4]{{1,0}} copy(%input_scatter_fusion)
}}
"""
STEPS = """000: kCommandBuffer  [source        | next=002 (1)  ]
    000: kCopy         [source        | sink         ] kCopy
    001: kCustomKernel [source        | sink         ] loop_add_fusion grid: [1, 1, 1]
    002: kWhile        [prev=001 (1)  | sink         ]
condition:
        No thunks.      body:
        003: kCublasLtMatmul [source | sink] kCublasLtMatmul
004: kConvolution    [prev=000 (1)  | next=005 (1)  ] kConvolution
005: kWhile          [prev=004 (1)  | sink          ]
condition:
    006: kCustomKernel [source       | sink        ] wrapped_compare grid: [1, 1, 1]
  body:
    1007: kKernel      [source       | sink        ] loop_fusion grid: [1, 1, 1]
"""
NAMES = "".join(
    f'thunk_metadata {{\n  thunk_info {{\n    profile_annotation: "{name}"\n    thunk_id: {number}\n  }}\n'
    f'  thunk_kind: "kWhile"\n}}\n'
    for number, name in ((2, "while.2"), (5, "while.1"))
)
KERNELS = (
    ".visible .entry input_scatter_fusion_2(\n\t.param .u64 p\n)\n{\n\tatom.global.v4.f32.add \t%f1, [%rd7], %f2;\n}\n",
    ".visible .entry input_scatter_fusion(\n)\n{\n\tatom.relaxed.sys.global.cas.b32 \t%r6, [%rd7], %r42, %r41;\n}\n",
    ".visible .entry loop_add_fusion(\n)\n{\n\tadd.f32 %f1, %f2, %f3;\n}\n",
)


@pytest.fixture(scope="module")
def described() -> dict:
    return summarise_gpu_program(Dump(HLO, STEPS, NAMES, KERNELS), GPUS["h100"], assumed_trips=1, top=3)


def test_launches_in_graphs_and_outside(described: dict) -> None:
    assert described["launches"] == {
        "graphs": 1,
        "in_graphs": {"copies": 1, "cuBLAS": 1, "kWhile": 1, "kernels": 1},
        "outside": {"cuDNN": 1, "kWhile": 1, "kernels": 2},
    }


def test_steps_after_a_graph_are_outside_of_it() -> None:
    assert [launch.number for launch in read_steps(STEPS) if not launch.in_graph] == [0, 4, 5, 6, 1007]


def test_a_loop_that_the_host_waits_for(described: dict) -> None:
    first, second = described["loops"]
    assert first == {
        "op_name": f"{STEP}/jvp(propose)/suppress_overlaps/while",
        "trips": None,
        "entered": 1,
        "in_graph": False,
    }
    assert (second["trips"], second["in_graph"]) == (7, True)


def test_a_convolution_that_is_not_bfloat16(described: dict) -> None:
    (found,) = described["convolutions_not_bfloat16"]
    assert (found["name"], found["part"], found["shape"]) == ("conv.2", "backbone", "(f32[2,8,8,16], u8[0])")


def test_scatters_by_how_they_add(described: dict) -> None:
    adds = {scatter["name"]: (scatter["adds_by"], scatter["part"]) for scatter in described["scatters"]}
    assert adds == {
        "input_scatter_fusion.2": ("atomic", "RoI pooling"),
        "input_scatter_fusion": ("compare-and-swap", "losses"),
    }


def test_sorts_callbacks_and_collectives(described: dict) -> None:
    (sort,) = described["sorts"]
    assert (sort["rows"], sort["length"], sort["how"]) == (8, 5000, "bitonic")
    (callback,) = described["host_callbacks"]
    assert callback["op_name"].endswith("pure_callback")
    (collective,) = described["collectives"]
    assert (collective["what"], collective["bytes"]) == ("gradients and metrics", 1600)
    calls = {(call["function"], call["dtype"]) for call in described["library_calls"]}
    assert ("__cudnn$convForward", "bf16") in calls and ("__cudnn$convBackwardInput", "f32") in calls


def test_time_by_part(described: dict) -> None:
    times = described["estimated_microseconds"]
    flops = 2 * (2 * 8 * 8 * 32) * (3 * 3 * 16)  # each of the three convolutions
    backward = flops / 495e12 + flops / 990e12  # of the input in float32, of the kernel in bfloat16
    assert times["by_part"]["RoI pooling"] == {"forward": 0.0, "backward": 1.5}  # of the model named "sol"
    assert times["most_expensive"][0]["microseconds"] == 1.5
    assert times["without_estimate"] == {"sort": 1, "xla_ffi_python_gpu_callback": 1}
    copy = 2 * 1600 / 3_352_320_000_000
    assert times["total"] == pytest.approx(3 + 1e6 * (flops / 990e12 + backward + copy), abs=0.1)


def test_the_module_compiled_last_is_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing was compiled for a GPU"):
        read_dump(tmp_path)
    for ending, text in (
        ("sm_9.0a_gpu_after_optimizations.txt", HLO),
        ("thunk_sequence_after_thunk_passes.txt", STEPS),
        ("thunk_metadata.txt", NAMES),
        ("1.ptx", KERNELS[0]),
    ):
        (tmp_path / f"module_0001.jit_step.{ending}").write_text(text)
    assert read_dump(tmp_path) == Dump(HLO, STEPS, NAMES, KERNELS[:1])


@pytest.mark.parametrize("name", GPUS)
def test_a_target_names_its_gpu(name: str) -> None:
    gpu = GPUS[name]
    target = gpu.make_target()
    assert f'name: "{gpu.name}"' in target and f"core_count: {gpu.cores}" in target
    assert ("ACCELERATED_FEATURES" in target) == (gpu.compute_capability[0] >= 9)


def test_time_of_a_gpu_without_a_model() -> None:
    """Bytes read and written, or products at the peak, whichever takes longer."""
    gpu = GPUS["l4"]
    product = """HloModule jit_step

%fused (p: f32[1000,1000]) -> f32[1000,1000] {
  ROOT %p = f32[1000,1000]{1,0} parameter(0)
}

ENTRY %main (a: bf16[4096,4096], b: bf16[4096,1024], c: f32[1000,1000]) -> f32[1000,1000] {
  %a = bf16[4096,4096]{1,0} parameter(0)
  %b = bf16[4096,1024]{1,0} parameter(1)
  %c = f32[1000,1000]{1,0} parameter(2)
  %gemm = (bf16[4096,1024]{1,0}, s8[16]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", \
metadata={op_name="jit(step)/MaskRCNN.classify_rois/dot"}, \
backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}
  ROOT %copied = f32[1000,1000]{1,0} fusion(%c, %c), kind=kLoop, calls=%fused, \
metadata={op_name="jit(step)/pool_rois/x"}
}
"""
    times = summarise_gpu_program(Dump(product, "", "", ()), gpu, assumed_trips=1, top=3)["estimated_microseconds"]
    assert times["by_part"]["box head"]["forward"] == round(2 * 4096 * 1024 * 4096 / gpu.bfloat16_flops * 1e6, 1)
    assert times["by_part"]["RoI pooling"]["forward"] == round(2 * 4_000_000 / gpu.bandwidth * 1e6, 1)
    assert not times["without_estimate"]
