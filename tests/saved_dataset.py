"""A folder as `save_to_disk` of Hugging Face datasets writes it, and SQuAD in small."""

import json
from pathlib import Path

import pyarrow as pa

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Statins",
            "paragraphs": [
                {
                    "context": "Statins lower cholesterol.",
                    "qas": [
                        {
                            "id": "56be",
                            "question": "What do statins lower?",
                            "answers": [{"text": "cholesterol", "answer_start": 14}],
                        }
                    ],
                }
            ],
        },
        {
            "title": "Beyoncé",
            "paragraphs": [
                {
                    "context": "She rose to fame in the late 1990s.",
                    "qas": [
                        {
                            "id": "56bf",
                            "question": "When did she rise to fame?",
                            "answers": [{"text": "late 1990s"}, {"text": "the late 1990s"}],
                            "is_impossible": False,
                        },
                        {"id": "5ad2", "question": "When did he?", "answers": [], "is_impossible": True},
                    ],
                },
                {"context": "She was born in Houston.", "qas": []},
            ],
        },
    ],
}


def save_dataset(folder: Path, *tables: pa.Table) -> Path:
    """One Arrow stream a table, and the `state.json` that lists them (datasets 2 and later)."""
    folder.mkdir(parents=True)
    files = []
    for number, table in enumerate(tables):
        name = f"data-{number:05d}-of-{len(tables):05d}.arrow"
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        files.append({"filename": name})
    (folder / "state.json").write_text(
        json.dumps({"_data_files": files, "_fingerprint": "f", "_split": "train"})
    )
    return folder
