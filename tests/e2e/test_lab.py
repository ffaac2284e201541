"""kvtool lab on a tiny model: what its table says is what separate replays say of each policy."""

import math

import pytest

PAGES = "page=4,sinks=1,recent=1,dense=1"
OTHER_PAGES = "page=4,recent=1,dense=1"  # without what mass and random do by themselves
REST = "sinks=1,recent=1,dense=1,codec=none"
# Spec that the lab is given, and the spec that runs.
POLICIES = {
    "int8": ("int8", "int8"),
    "kivi": ("kivi:k=2,v=2,residual=4,group=4", "kivi:k=2,v=2,residual=4,group=4"),
    "quest": (f"quest:{PAGES}", f"quest:{PAGES},budget=50%"),
    "paged": (f"paged:device=8,select=quest,{PAGES}",
              f"paged:device=8,select=quest,{PAGES},budget=50%"),
}


def clopper_pearson(successes, trials):
    """Two-sided 95 % interval: where each tail of the binomial distribution is 2.5 %."""

    def tail(share, first, last):
        return sum(math.comb(trials, i) * share**i * (1 - share) ** (trials - i)
                   for i in range(first, last + 1))

    def root(grows):
        low, high = 0.0, 1.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if grows(middle) <= 0.025 else (low, middle)
        return low

    low = 0.0 if successes == 0 else root(lambda p: tail(p, successes, trials))
    high = 1.0 if successes == trials else 1 - root(lambda p: tail(1 - p, 0, successes))
    return low, high


PROMPT = [{"token_ids": [(7 * i) % 90 + 3 for i in range(48)]}]
NEW_TOKENS = 17


@pytest.fixture
def recorded(kvtool, exported):
    model = exported("llama").path
    kvtool.ok("save", "--model", model, "--device", "cpu", "--prompts", kvtool.prompts(PROMPT),
              "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--out", "ref_cache")
    return ["--from", "CPU", "--model", model, "--device", "cpu"]


def lab_of(kvtool, recorded, *options, expect=0):
    (lab,) = kvtool.json("lab", *recorded, *options, expect=expect)["labs"]
    return lab, {row["name"]: row for row in lab["rows"]}


@pytest.fixture
def table(kvtool, recorded):
    policies = ",".join(given for given, _ in POLICIES.values())
    return lab_of(kvtool, recorded, "--policy", policies, "--budget", "50", "--mode", "forced,free")


def test_figures_are_those_of_separate_replays(kvtool, recorded, table):
    _, rows = table
    for given, spec in POLICIES.values():
        row = rows.get(given) or rows[f"{given} 50%"]
        replay = ["replay", *recorded, "--kv-cache", spec, "--mode", "forced,free"]
        done = kvtool.run(*replay, "--json", "replay.json")
        assert done.returncode in (0, 1), done.stderr
        report = kvtool.json(*replay, expect=done.returncode)
        (verdict,), (cache,) = report["verdicts"], report["summary"]["caches"]
        figures, quality = verdict["figures"], row["quality"]
        assert row["spec"] == cache["spec"] == verdict["cache"]
        assert row["gate"]["passed"] == verdict["gate"]["passed"]
        for name, figure in {
            "compared": "tokens.compared", "matches": "tokens.matches", "ties": "tokens.ties",
            "hard_flips": "tokens.hard_flips", "agreement": "tokens.match_rate",
            "flips_expected": "tokens.flips_expected", "kl_mean": "kl_estimate.mean",
            "kl_standard_error": "kl_estimate.standard_error", "kl_p99": "kl_estimate.p99",
            "kl_median": "kl_estimate.median", "same_top": "logits.top1_agreement",
            "rms_delta_p": "logits.rms_delta_p", "key_relative_l2": "kv.key.relative_l2",
            "value_relative_l2": "kv.value.relative_l2",
        }.items():
            assert quality[name] == figures[f"forced.{figure}"], (spec, name)
        assert quality["agreed_tokens_median"] == figures["free.tokens.agreed_median"]
        low, high = clopper_pearson(quality["matches"], quality["compared"])
        assert quality["agreement_low95"] == pytest.approx(low, abs=1e-9)
        assert quality["agreement_high95"] == pytest.approx(high, abs=1e-9)
        assert row["bytes"]["kept_bytes"] == cache["physical_bytes"]
        assert row["bytes"]["logical_bytes"] == cache["logical_bytes"]
        assert row["applied"]["applied_rows"] == cache["applied_rows"]


def test_bytes_and_keys_are_those_of_the_model_and_the_budget(table):
    _, rows = table
    positions = 48 + NEW_TOKENS - 1
    row_bytes = 2 * 2 * 16 * 2 * 4  # layers, K/V heads, dim, K and V, float32
    full = rows["full"]["bytes"]
    assert full["positions"] == positions
    assert full["logical_per_token"] == full["kept_per_token"] == row_bytes
    mean_keys = sum(range(49, 49 + NEW_TOKENS - 1)) / (NEW_TOKENS - 1)
    assert full["read_bytes_per_step"] == pytest.approx(mean_keys * row_bytes)
    # One of two layers chooses; the query's own page is the last.
    quest = rows[f"quest:{PAGES} 50%"]
    seen = visible = 0
    for position in range(48, positions):
        pages = position // 4 + 1
        visible += position + 1
        seen += (-(-pages // 2) - 1) * 4 + position % 4 + 1
    assert quest["applied"]["seen_share"] == pytest.approx(seen / visible)
    summaries = quest["bytes"]["kept_per_token"] - row_bytes
    assert 0 < summaries < row_bytes
    assert quest["bytes"]["read_bytes_per_step"] == pytest.approx(
        mean_keys * (row_bytes * (1 + seen / visible) / 2 + summaries))


def test_the_rows_that_are_always_there(table):
    lab, rows = table
    assert [row["role"] for row in lab["rows"]][:2] == ["full", "noise"]
    assert rows["full"]["quality"]["agreement"] == 1 and rows["full"]["quality"]["kl_mean"] == 0
    for name in ("mass", "random"):
        assert rows[f"{name}:{OTHER_PAGES} 50%"]["spec"] == f"{name}:page=4,budget=50%,{REST}"
    assert rows["window 50%"]["spec"] == "window:sinks=4,recent=28,codec=none"
    assert rows["window 50%"]["applied"]["seen_share"] < 0.6
    quest, mass = rows[f"quest:{PAGES} 50%"], rows[f"mass:{OTHER_PAGES} 50%"]
    assert quest["regret"]["kl_difference"] == pytest.approx(
        quest["quality"]["kl_mean"] - mass["quality"]["kl_mean"])


def test_who_chooses_best_is_of_the_same_steps(table):
    lab, rows = table
    kl = {name: row["quality"]["kl_mean"] for name, row in rows.items()
          if row["role"] != "full" and row["quality"]}
    assert lab["pairs"]
    for pair in lab["pairs"]:
        assert pair["steps"] == NEW_TOKENS - 1
        assert pair["best_kl_mean"] == kl[pair["best"]]
        assert pair["kl_difference"] == pytest.approx(kl[pair["other"]] - kl[pair["best"]])


def test_pages_are_those_of_the_replay_and_of_a_run_without_paging(kvtool, recorded):
    select = f"select=quest,budget=50%,{PAGES}"
    for residency in ("lru", "predictive"):
        given = f"paged:device=8,residency={residency},{select}"
        _, rows = lab_of(kvtool, recorded, "--policy", given, "--rows", "none")
        row = rows[given]
        report = kvtool.json("replay", *recorded, "--kv-cache", given, "--mode", "forced")
        (cache,) = report["summary"]["caches"]
        pages, ghost = row["pages"], row["pages"]["ghost"]
        for name, number in cache["pages"].items():
            # What is late, and how long it took, is another run's.
            if name not in ("hits", "late", "hit_rate", "inner_hits", "inner_hit_rate",
                            "prefetch_timeliness") and "seconds" not in name:
                assert pages[name] == number, name
        assert pages["prefetched"] == cache["prefetched"]
        assert (pages["prefetched"] > 0) == (residency == "predictive")
        assert 0 < pages["stall_share"] < 1
        assert ghost["missing"] is None and ghost["other_tokens"] == 0
        assert "device=100%" in ghost["spec"]
        assert ghost["step_ms"]["count"] == row["step_ms"]["count"] == NEW_TOKENS - 1
        assert ghost["stall_share"] == pytest.approx(
            1 - ghost["decode_seconds"] / pages["decode_seconds"])
    assert rows["full"]["pages"] is None


def test_the_noise_floor_says_what_differs(kvtool, recorded):
    _, rows = lab_of(kvtool, recorded, "--policy", "int8")
    noise = rows["noise"]
    if noise["missing"]:
        assert "no weaker instruction set" in noise["missing"]
    else:
        assert noise["note"].startswith("instruction set ")
        assert 0 <= noise["quality"]["kl_mean"] < 1e-6


def test_everything_is_seen_at_a_whole_budget_and_nothing_is_claimed(kvtool, recorded):
    _, rows = lab_of(kvtool, recorded, "--policy", f"quest:{PAGES}", "--budget", "100")
    row = rows[f"quest:{PAGES} 100%"]
    assert row["applied"]["idle"] == "every step saw all keys"
    assert row["quality"]["agreement"] == 1 and row["quality"]["kl_mean"] == 0


def test_strict_passes_where_the_checks_do(kvtool, recorded):
    lab, _ = lab_of(kvtool, recorded, "--policy", f"quest:{PAGES}", "--budget", "75,50", "--strict")
    assert lab["checks"] and lab["checks_passed"]


def test_each_part_alone_is_what_a_parallel_replay_of_it_says(kvtool, recorded):
    lab, rows = lab_of(kvtool, recorded, "--rows", "none", "--sensitivity", "--policy",
                       "kivi:group=4,residual=4")
    sensitivity = lab["sensitivity"]
    assert sensitivity["base"] == "group=4,residual=4,sinks=0" and sensitivity["mode"] == "forced"
    parts = {(part["part"], part["bits"]): part for part in sensitivity["parts"]}
    assert list(parts) == [(part, bits) for bits in (8, 4, 2)
                           for part in ("K and V", "K", "V", "layer 0", "layer 1")]
    assert 0 <= sensitivity["full"]["kl_mean"] < 1e-6
    for key in [("K and V", 2), ("K", 2), ("V", 4), ("layer 1", 2)]:
        part = parts[key]
        replay = ["replay", *recorded, "--kv-cache", part["spec"], "--parallel", "--mode", "forced"]
        done = kvtool.run(*replay, "--json", "replay.json")
        (verdict,) = kvtool.json(*replay, expect=done.returncode)["verdicts"]
        figures = verdict["figures"]
        assert part["quality"]["kl_mean"] == figures["forced.kl_estimate.mean"] > 0
        assert part["quality"]["hard_flips"] == figures["forced.tokens.hard_flips"]
    # Step by step 2 bits cost the same.
    (row,) = [row for name, row in rows.items() if name.startswith("kivi")]
    assert row["quality"]["kl_mean"] == pytest.approx(parts["K and V", 4]["quality"]["kl_mean"],
                                                      rel=1e-2)


def test_from_which_length_on_takes_several_lengths(kvtool, recorded):
    lab, _ = lab_of(kvtool, recorded, "--rows", "none", "--breakeven", "--policy", "int8")
    (int8,) = lab["breakeven"]
    assert int8["name"] == "int8" and "too few lengths" in int8["missing"]
    assert (int8["shortest_positions"], int8["longest_positions"]) == (49, 64)


def test_what_attention_gives_is_measured_beside_it(kvtool, recorded):
    _, rows = lab_of(kvtool, recorded, "--rows", "none", "--attention-output", "--policy",
                     f"int8,window:sinks=0,recent=8,quest:{PAGES}", "--budget", "50")
    error = {name: row["attention_relative_l2"] for name, row in rows.items()}
    assert all(len(one["by_layer"]) == 2 for one in error.values())
    assert error["full"] == {"all": 0, "by_layer": [0, 0]}
    assert 0 < error["int8"]["all"] < 0.1 < error["window:sinks=0,recent=8"]["all"] < 2
    # The first layer is dense.
    first, second = error[f"quest:{PAGES} 50%"]["by_layer"]
    assert first == 0 < second
