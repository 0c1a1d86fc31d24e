# Every recipe is one cargo command; the argument names a pipeline.

scaledown := "cargo run --release --"

# The prompts, with data card and leak audit.
build-data pipeline="mini":
    {{scaledown}} build-data --pipeline {{pipeline}}

# All students of the pipeline.
distill pipeline="mini":
    {{scaledown}} distill --pipeline {{pipeline}} --student all

# Images of teacher and students, their scores, the report.
eval-all pipeline="mini":
    {{scaledown}} generate --pipeline {{pipeline}} --encoder all
    {{scaledown}} evaluate --pipeline {{pipeline}}
    {{scaledown}} report --pipeline {{pipeline}}

# Everything from the prompts to the report.
run pipeline="mini":
    {{scaledown}} run --pipeline {{pipeline}}

# The paper's tables and figures beside our numbers (`just reproduce table1`; `--tiny` on random networks).
reproduce target="all" *options:
    {{scaledown}} reproduce {{target}} {{options}}

# Train the networks of the miniature world (hours).
bootstrap part="all":
    {{scaledown}} bootstrap --part {{part}}

test:
    cargo test --release

# What CI checks.
check:
    .ci/run

bench:
    cargo bench
