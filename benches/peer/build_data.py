"""The work of benches/build_data.rs in Python: polars expressions for every step, and `datasets` for reading and writing once
more. No step calls Python per row.

    pip install polars datasets
    cargo bench --bench build_data -- FOLDER && python benches/peer/build_data.py FOLDER/laion-2000000.parquet

The rules are those of src/data/clean and src/data/near.rs as far as expressions can say them: the same entities, patterns, word
lists, shingles, bands and threshold, other hashes. So the rows that pass and the exact duplicates are the same, and the near
duplicates agree within a tenth.
"""

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

SOURCES = Path(__file__).parents[2] / "src/data"
BANDS, ROWS = 8, 4
SIMILARITY = 0.8


def strings(path, start, end):
    """String literals of a Rust table, so that both sides use the same lists."""
    text = (SOURCES / path).read_text().split(start, 1)[1].split(end, 1)[0]
    text = text[text.index("= [") + 3:]
    return [part for part in text.split('"')[1::2]]


BOILERPLATE = strings("clean/caption.rs", "pub const BOILERPLATE", "];")
UNSAFE = strings("clean/marks.rs", "pub const UNSAFE", "];")
LANGUAGES = [words.replace("\\\n", " ").split() for words in strings("clean/marks.rs", "const SMALL_WORDS", "];")]
ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&#39;": "'", "&nbsp;": " ", "&#8211;": "–", "&#8212;": "—",
            "&#8217;": "’", "&eacute;": "é", "&egrave;": "è", "&uuml;": "ü", "&ouml;": "ö", "&auml;": "ä", "&copy;": "©", "&reg;": "®"}

clock = time.perf_counter()
begun = clock
phases = []


def phase(name):
    global clock
    now = time.perf_counter()
    phases.append((name, now - clock))
    clock = now


def cleaned():
    address = r"(?i)\S*(?:https?://|www\.)\S+|\b[a-z0-9.-]{2,}\.(?:com|net|org|info|biz|co\.uk|de|fr|ru|eu|shop|blog)(?:[/?#]\S*)?(?:\s|$)"
    file_name = r"(?i)\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|psd|eps|heic|pdf)\b"
    camera = r"(?i)\b(?:img|dsc[nf]?|pict|mvi|sam|imgp|cimg|wp|pxl)[_-]?\d{4,}\b|\bp\d{7,}\b"
    boilerplate = r"(?i)\b(?:" + "|".join(BOILERPLATE) + r")\b"
    return (
        pl.col("TEXT")
        .str.replace_many(ENTITIES)
        .str.replace_all(r"</?[a-zA-Z][^<>]{0,200}>", " ")
        .str.replace_all(r"[\x00-\x1f\x7f-\x9f]", " ")
        .str.replace_all(r"[\u00AD\u200B-\u200F\u202A-\u202E\u2060-\u2064\uFEFF\uFFFD]", "")
        .str.normalize("NFC")
        .str.replace_all(f"{address}|{file_name}|{camera}", " ")
        .str.replace_all(boilerplate, " ")
        .str.replace_all(r"\s+", " ")
        .str.strip_chars(" -–—|·•:;,/~_")
    )


def small_words(language):
    return pl.col("words").list.set_intersection(pl.lit(pl.Series([LANGUAGES[language]]))).list.len()


def foreign():
    english, others = small_words(0), pl.max_horizontal(*[small_words(i) for i in range(1, len(LANGUAGES))])
    small = (others >= 2) & (others > english) & (others * 4 >= pl.col("words").list.len())
    latin = pl.col("prompt").str.count_matches(r"\p{Latin}")
    return small | (pl.col("prompt").str.count_matches(r"\p{Alphabetic}") > 2 * latin)


def personal():
    email = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}"
    telephone = r"\+\d[\d .()-]{8,}\d|\(\d+\)[\d .-]{7,}|\b\d{2,4}[-. ]\d{2,4}[-.]\d{3,4}\b"
    return pl.col("prompt").str.contains(f"{email}|{telephone}")


def main(table):
    # Streamed, as ours is: row groups are cleaned as they are read.
    kept = (
        pl.scan_parquet(table)
        .filter(pl.col("AESTHETIC_SCORE") >= 6.5)
        .select(cleaned().alias("prompt"), pl.col("AESTHETIC_SCORE").alias("score"), "punsafe", "pwatermark")
        .filter(pl.col("prompt").str.len_chars().is_between(3, 2000))
        .with_columns(pl.col("prompt").str.to_lowercase().str.replace_all(r"[^\p{Alphabetic}\p{N}]+", " ").str.strip_chars(" ").alias("normal"))
        .filter(pl.col("normal") != "")
        .with_columns(pl.col("normal").str.split(" ").alias("words"))
        .filter(~((pl.format(" {} ", "normal").str.contains_any([f" {word} " for word in UNSAFE])) | (pl.col("punsafe") >= 0.5)))
        .filter(~personal())
        .filter(~foreign())
        .select("prompt", "score", "normal", (pl.col("pwatermark") >= 0.8).alias("watermark"))
        .collect(engine="streaming")
    )
    passed = kept.height
    phase("scan, filter, clean, flag")

    kept = kept.unique("normal", keep="any").sort(pl.col("normal").hash(), "normal").with_row_index("row")
    distinct = kept.height
    phase("exact duplicates")

    words = kept.lazy().select("row", pl.col("normal").str.split(" ").alias("word")).explode("word").select("row", pl.col("word").hash().alias("h"))
    pairs = words.filter(pl.col("row") == pl.col("row").shift(-1))
    pairs = words.select("row", (pl.col("h") * 31 + pl.col("h").shift(-1)).alias("h"), (pl.col("row") == pl.col("row").shift(-1)).alias("pair")).filter("pair").select("row", "h")
    multipliers = [(0x9E3779B97F4A7C15 * (2 * i + 1)) % 2**64 | 1 for i in range(BANDS * ROWS)]
    shingles = pl.concat([words, pairs]).collect()
    minima = [(pl.col("h") * pl.lit(m, dtype=pl.UInt64)).min().alias(f"m{i}") for i, m in enumerate(multipliers)]
    signatures = shingles.lazy().group_by("row").agg(minima).collect(engine="streaming")
    candidates = []
    for band in range(BANDS):
        key = pl.struct([f"m{band * ROWS + i}" for i in range(ROWS)]).hash()
        groups = signatures.lazy().select("row", key.alias("key")).with_columns(pl.col("row").min().over("key").alias("first"))
        candidates.append(groups.filter(pl.col("row") != pl.col("first")).select("row", "first"))
    candidates = pl.concat(candidates).unique().collect(engine="streaming")
    needed = pl.concat([candidates["row"], candidates["first"]]).unique()
    sets = shingles.lazy().filter(pl.col("row").is_in(needed.implode())).group_by("row").agg(pl.col("h").unique()).collect()
    pairs = candidates.lazy().join(sets.lazy(), on="row").join(sets.lazy(), left_on="first", right_on="row", suffix="_first")
    both, either = pl.col("h").list.set_intersection("h_first").list.len(), pl.col("h").list.set_union("h_first").list.len()
    near = pairs.filter(both >= SIMILARITY * either).select("row").unique().collect()
    kept = kept.join(near, on="row", how="anti")
    phase("near duplicates")

    out = Path(table).with_name("peer.parquet")
    kept.select(pl.col("prompt").hash().alias("prompt_id"), "prompt", pl.col("score").cast(pl.Float32), "watermark").sort("prompt_id").write_parquet(
        out, compression="zstd", compression_level=1, row_group_size=1 << 17)
    phase("write")
    seconds = time.perf_counter() - begun
    for name, part in phases:
        print(f"{name:28} {part:7.2f} s")
    print(f"{'overall':28} {seconds:7.2f} s")
    print(f"passed {passed}, exact duplicates {passed - distinct}, near duplicates {near.height}, written {kept.height}")
    print(f"{'peak memory':28} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7.0f} MiB")
    with_datasets(table, out)


def with_datasets(table, out):
    """Reading the table and writing the result with `datasets`: what its users pay for these two steps alone."""
    import datasets

    datasets.disable_progress_bars()
    cache = tempfile.mkdtemp()
    start = time.perf_counter()
    rows = datasets.load_dataset("parquet", data_files=str(table), columns=["TEXT", "AESTHETIC_SCORE", "punsafe", "pwatermark"], cache_dir=cache, split="train")
    print(f"{'datasets: read':28} {time.perf_counter() - start:7.2f} s  ({rows.num_rows} rows)")
    result = datasets.load_dataset("parquet", data_files=str(out), cache_dir=cache, split="train")
    start = time.perf_counter()
    result.to_parquet(str(out.with_name("peer-datasets.parquet")))
    print(f"{'datasets: write':28} {time.perf_counter() - start:7.2f} s  ({result.num_rows} rows)")
    shutil.rmtree(cache)


if __name__ == "__main__":
    main(sys.argv[1])
