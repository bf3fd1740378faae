"""Guarantees of tools/evaluation_results.py, make_results_table.py and plot_results.py."""

import json
import shutil

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from data_utils.errors import UserError
from tools import make_results_table, plot_results
from tools.command_line import named_folders
from tools.evaluation_results import Row, open_rows

SEEDS = (10, 20, 30)
ROWS = {"dolly": 60, "vicuna": 20}


def write_job(folder, scores, batch=8, content=None, **options) -> None:
    """Write what `evaluate.py` does: `<model>/<set>-<max-length>/<seed>`; `options` and `content` replace parts."""
    model, data_name = folder.parents[1].name, folder.parent.name.partition("-")[0]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": f"row {row}", "rougeL": float(score)}) for row, score in enumerate(scores)]
    (folder / "answers.jsonl").write_text("\n".join(lines))
    (folder / "metrics.json").write_text(json.dumps({"rougeL": float(np.mean(scores))}))
    content = {"data_dir": f"rows of {data_name}", "model_path": model} | (content or {})
    arguments = {"model_path": model, "peft_path": None, "data_dir": "data", "temperature": 1.0} | options
    header = {"arguments": arguments, "inputs": {name: {"file": text} for name, text in content.items()}}
    (folder / "args.json").write_text(json.dumps(header | {"global_batch_size": batch}))


def scores_in(folder) -> list[float]:
    return [json.loads(line)["rougeL"] for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def results(tmp_path):
    """Three models: `high` is `low` + 5 on every row, `noisy` is `low` + symmetric noise."""
    generator = np.random.default_rng(0)
    for data_name, count in ROWS.items():
        rows = generator.uniform(20, 60, count)
        for seed in SEEDS:
            low = rows + seed / 10
            noise = generator.permutation(np.repeat([-8.0, 8.0], count // 2))
            for name, scores in {"low": low, "high": low + 5, "noisy": low + noise}.items():
                write_job(tmp_path / name / f"{data_name}-512" / str(seed), scores)
    return tmp_path


def rows_of(results, *names):
    return [argument for name in names for argument in ("--row", f"{name}={results / name}")]


def cells(text):
    """Return the cells of all table lines by (head of the table, model, column)."""
    found, head = {}, None
    for line in text.splitlines():
        if not line.startswith("|"):
            head = None
            continue
        values = [value.strip() for value in line.strip("|").split("|")]
        if head is None:
            head = values
        elif values[0] != "---":
            found |= {(head[0], values[0], column): value for column, value in zip(head[1:], values[1:], strict=True)}
    return found


def test_cells_are_mean_and_sample_deviation_over_seeds(results, run, tmp_path):
    run(make_results_table, *rows_of(results, "low", "high"), "--save", tmp_path / "t.md")
    table = cells((tmp_path / "t.md").read_text())
    scores = [[mean_of(results, "low", data_name, seed) for seed in SEEDS] for data_name in ROWS]
    for data_name, values in zip(ROWS, scores, strict=True):
        assert table["ROUGE-L", "low", data_name] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    average = np.mean(scores, axis=0)
    assert table["ROUGE-L", "low", "average"] == f"{average.mean():.2f} ± {average.std(ddof=1):.2f}"


def mean_of(results, model, data_name, seed):
    return np.mean(scores_in(results / model / f"{data_name}-512" / str(seed)))


def test_a_constant_difference_has_an_interval_of_no_width_and_noise_includes_zero(results, run, tmp_path):
    options = ("--baseline", "low", "--baseline", "high", "--save", tmp_path / "t.md")
    run(make_results_table, *rows_of(results, "low", "high", "noisy"), *options)
    table = cells((tmp_path / "t.md").read_text())
    for column in (*ROWS, "average"):
        assert table["minus low", "high", column] == "**+5.00** [+5.00, +5.00]"
        assert table["minus high", "low", column] == "**-5.00** [-5.00, -5.00]"
        low, high = (float(bound) for bound in table["minus low", "noisy", column].split("[")[1][:-1].split(","))
        assert low < 0 < high and "**" not in table["minus low", "noisy", column]


def test_the_same_input_gives_the_same_text_and_one_seed_has_no_spread(results, run, tmp_path):
    options = (*rows_of(results, "low", "noisy"), "--baseline", "low", "--seeds", 10, "--data-names", "vicuna")
    texts = []
    for name in ("a", "b"):
        run(make_results_table, *options, "--command", "bash x.sh", "--save", tmp_path / name)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert "±" not in texts[0] and "sampling seed 10" in texts[0] and "dolly" not in texts[0]


def test_title_command_and_plot_are_shown(results, run, tmp_path):
    options = (
        "--title",
        "Results",
        "--command",
        "bash runs/x.sh",
        "--plot",
        "results.png",
        "--save",
        tmp_path / "t.md",
    )
    run(make_results_table, *rows_of(results, "low"), *options)
    text = (tmp_path / "t.md").read_text()
    assert text.startswith("# Results\n") and "](results.png)" in text and "```bash\nbash runs/x.sh\n```" in text


def test_a_missing_result_is_one_clear_line_and_writes_nothing(results, run, tmp_path):
    shutil.rmtree(results / "high" / "vicuna-512" / "20")
    with pytest.raises(
        UserError, match=r"high has no result for vicuna, seed 20: .*vicuna-512/20/args\.json is missing"
    ):
        run(make_results_table, *rows_of(results, "low", "high"), "--save", tmp_path / "t.md")
    with pytest.raises(UserError, match="low has no result for sinst, seed 10"):
        options = ("--data-names", "dolly", "sinst", "--save", tmp_path / "t.md")
        run(make_results_table, *rows_of(results, "low"), *options)
    assert not (tmp_path / "t.md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--row", "low"], "--row 'low' is not of the form NAME=FOLDER"),
        (["--row", "low=absent"], "low: absent does not exist"),
        (["--row", "low={results}/low", "--row", "low={results}/high"], "--row names 'low' twice; put all folders"),
        (["--row", "low={results}/low", "{results}/high/../low"], "low names one folder twice"),
        (["--row", "low={results}/low", "--baseline", "SFT"], "--baseline 'SFT' is not a --row: choose from low"),
        (["--row", "low={results}/low", "--max-length", "256"], "no row has a result of --max-length 256"),
        ([], "required: --row"),
    ],
)
def test_bad_command_lines_are_one_clear_line(results, run, tmp_path, arguments, message):
    arguments = [argument.format(results=results) for argument in arguments]
    with pytest.raises(UserError, match=message):
        run(make_results_table, *arguments, "--save", tmp_path / "t.md")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            '{"prompt": "row 0", "rougeL": 1}\n',
            r"answers other prompts \(1 rows\) than low .* \(60 rows\): they cannot",
        ),
        ('{"prompt": "row 0"}\n', "does not hold a prompt and rougeL for each row"),
        ("", "does not hold a prompt and rougeL for each row"),
    ],
)
def test_answers_that_cannot_be_paired_are_refused(results, answers, message):
    (results / "high" / "dolly-512" / "10" / "answers.jsonl").write_text(answers)
    (results / "high" / "dolly-512" / "10" / "metrics.json").write_text('{"rougeL": 1}')
    with pytest.raises(UserError, match=message):
        open_both(results)


def test_answers_that_do_not_have_the_mean_in_their_metrics_are_refused(results):
    folder = results / "high" / "dolly-512" / "10"
    lines = (folder / "answers.jsonl").read_text().splitlines(keepends=True)
    (folder / "answers.jsonl").write_text("".join(lines[:1]))
    with pytest.raises(UserError, match=r"does not fit metrics\.json"):
        open_both(results)
    for content in ("{}", "[", '{"rougeL": "x"}'):
        (folder / "metrics.json").write_text(content)
        with pytest.raises(UserError, match=r"metrics\.json is missing, or holds no rougeL"):
            open_both(results)


def test_bug_rows_of_different_prompts_were_paired(results):
    path = results / "high" / "vicuna-512" / "20" / "answers.jsonl"
    path.write_text(path.read_text().replace("row 3", "row three"))
    where = r"high \(.*high/vicuna-512/20\) answers other prompts \(20 rows\) than low \(.*low/vicuna-512/10\)"
    with pytest.raises(UserError, match=where):
        open_both(results)


def open_both(results) -> list[Row]:
    return open_rows({name: [results / name] for name in ("low", "high")})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0.7}, "temperature 0.7, not 1.0; evaluate both with the same options"),
        ({"num_rows": 5}, "num_rows 5, not None; evaluate both with the same options"),
        ({"content": {"data_dir": "others"}}, "different content in data_dir data; evaluate both on"),
        ({"content": {"model_path": "x"}}, "different content in model_path high; evaluate both with one model, or"),
        ({"peft_path": "x"}, "peft_path x, not None; evaluate both with one model"),
    ],
)
def test_bug_results_that_cannot_be_compared_were_mixed_in_one_table(results, changed, message):
    folder = results / "high" / "vicuna-512" / "20"
    write_job(folder, scores_in(folder), **changed)
    with pytest.raises(UserError) as error:
        open_both(results)
    line = str(error.value)
    assert line.startswith(f"high ({folder}) does not fit ")
    assert message in line and "\n" not in line


def test_results_of_one_model_are_compared_by_content(results):
    folder = results / "high" / "dolly-512" / "20"
    write_job(folder, scores_in(folder), batch=2, data_dir="/moved", model_path="./high", precision="fp32")
    assert len(open_both(results)) == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"arguments": {}}'])
def test_a_damaged_record_of_an_evaluation_is_one_clear_line(results, content):
    (results / "high" / "dolly-512" / "10" / "args.json").write_text(content)
    with pytest.raises(UserError, match=r"high/dolly-512/10/args\.json is broken: .*; evaluate again"):
        open_both(results)


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    records = [{"step": step, "dev_loss": 3 - step / 100, "dev_rougeL": 10 + step / 10} for step in (0, 50, 100)]
    records.insert(1, {"step": 10, "loss": 2.0})
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"st')
    return folder


def test_the_figure_is_a_png_of_a_readable_size(results, log, run, tmp_path):
    options = ("--run", f"high={log}", "--save", tmp_path / "p.png", "--title", "Title")
    run(plot_results, *rows_of(results, "low", "high"), *options)
    height, width, _ = pyplot.imread(tmp_path / "p.png").shape
    assert width >= 1200 and height >= 600
    assert matplotlib.get_backend().lower() == "agg"


def draw(*arguments):
    """Return the figure's panels by name, and the names in its legend."""
    figure = plot_results.draw(*arguments, None)
    pyplot.close(figure)
    panels = {axes.get_label(): axes for axes in figure.axes}
    return panels, [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_name_has_one_colour_and_every_panel_its_labels(results, log):
    panels, legend = draw({"high": [plot_results.read_log(log)]}, open_both(results))
    labels = {name: axes.get_ylabel() for name, axes in panels.items()}
    assert labels == plot_results.PANELS | {"test": "test ROUGE-L"}
    (line,), bars = panels["dev_rougeL"].lines, panels["test"].containers
    assert list(line.get_xdata()) == [0, 50, 100] and list(line.get_ydata()) == [10, 15, 20]
    bar = next(container for container in bars if container.get_label() == "high")
    assert matplotlib.colors.same_color(bar.patches[0].get_facecolor(), line.get_color())
    assert legend == ["low", "high"]
    assert [tick.get_text() for tick in panels["test"].get_xticklabels()] == ["dolly", "vicuna", "average"]


def test_bars_alone_make_a_figure(results):
    panels, _ = draw({}, open_rows({"low": [results / "low"]}, ["dolly"], [10]))
    assert panels.keys() == {"test"}


def test_a_file_that_is_no_log_is_one_clear_line(tmp_path):
    (tmp_path / "log.jsonl").write_text("hello\n{}\n")
    with pytest.raises(UserError, match=r"log\.jsonl:1 is not a record of a step"):
        plot_results.read_log(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        plot_results.read_log(tmp_path / "absent")


def test_the_max_length_is_found_where_there_is_one_and_asked_for_where_there_are_several(results):
    folders = {"low": [results / "low"]}
    assert set(open_rows(folders)[0].scores) == {"dolly", "vicuna"}
    (results / "low" / "vicuna-512").rename(results / "low" / "vicuna-128")
    with pytest.raises(UserError, match="results of --max-length 128 and 512 exist; name one of them"):
        open_rows(folders)
    assert set(open_rows(folders, max_length=128)[0].scores) == {"vicuna"}
    with pytest.raises(UserError, match=r"no row has a result; run evaluate\.py first"):
        open_rows({"none": [results / "high" / "dolly-512"]})


@pytest.fixture
def three_runs(results) -> list[str]:
    """`low` in three training runs, each 4 above the one before on every row."""
    for place in (1, 2):
        for data_name in ROWS:
            for seed in SEEDS:
                job = f"{data_name}-512/{seed}"
                write_job(results / f"low {place}" / job, np.add(scores_in(results / "low" / job), 4 * place))
    return ["--row", f"low={results / 'low'}", str(results / "low 1"), str(results / "low 2")]


def test_the_cell_of_several_runs_is_their_mean_and_deviation_and_the_first_line_says_so(
    three_runs, results, run, tmp_path
):
    options = (*three_runs, *rows_of(results, "high"), "--title", "Title", "--save", tmp_path / "t.md")
    run(make_results_table, *options, "--baseline", "high")
    text = (tmp_path / "t.md").read_text()
    mean = np.mean([mean_of(results, "low", "dolly", seed) for seed in SEEDS]) + 4
    assert cells(text)["ROUGE-L", "low", "dolly"] == f"{mean:.2f} ± 4.00"
    assert cells(text)["ROUGE-L", "high", "dolly"] == f"{mean + 1:.2f}"
    assert text.splitlines()[2] == (
        "ROUGE-L (0 to 100), mean over training runs (3 of each row, 1 of high) and 3 sampling seeds ± standard "
        "deviation over training runs."
    )
    assert "a paired bootstrap over training runs and test rows" in text


def test_with_one_run_of_each_row_the_first_line_says_that_training_again_is_not_covered(results, run, tmp_path):
    options = (*rows_of(results, "low", "high"), "--save", tmp_path / "t.md")
    for more, missing in (("--baseline", "low"), ": the intervals cover test rows, not retraining"), ((), ""):
        run(make_results_table, *options, *more)
        first = (tmp_path / "t.md").read_text().splitlines()[0]
        spread = "mean ± standard deviation over 3 sampling seeds"
        assert first == f"ROUGE-L (0 to 100), {spread}; one training run per row{missing}."


def test_bars_and_curves_of_several_runs_are_one_model(three_runs, results, log):
    rows = open_rows(named_folders("--row", [three_runs[1:]]))
    panels, legend = draw({"low": [plot_results.read_log(log)] * 2}, rows)
    assert len(panels["dev_rougeL"].lines) == 2 and len(panels["test"].patches) == len(ROWS) + 1
    assert len({line.get_color() for line in panels["dev_rougeL"].lines}) == 1
    assert legend == ["low"]
