"""``eventlog dump``: the batches and records of one segment file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventlog.cli.arguments import Json
from eventlog.cli.output import (
    CommandError,
    bytes_text,
    console,
    plural,
    preview,
    size,
    time_text,
    write_json,
)

if TYPE_CHECKING:
    from eventlog.cli.segment_file import Batch, SegmentRecord


def dump(
    segment: Annotated[
        Path,
        typer.Argument(metavar="SEGMENT.log", help="A segment file.", show_default=False),
    ],
    records: Annotated[bool, typer.Option("--records", help="Show the records too.")] = False,
    json: Json = False,
) -> None:
    """Show the batches of a segment file, each checked by its CRC. The store need not be whole.

    Ends with exit code 1 where something follows that is no whole batch.
    """
    from eventlog.cli.segment_file import BadBatchError, SegmentFile

    if not segment.is_file():
        raise CommandError(
            f"there is no file {segment}",
            hint="Segments lie in the store's log/<topic>-<partition>/, with names like "
            "00000000000000000000.log",
        )
    speak = console()
    batch_count = record_count = end = 0
    with SegmentFile(segment) as file:
        try:
            for batch in file.batches():
                found = file.records(batch) if records else []
                if json:
                    write_json(_batch_json(batch, found if records else None))
                else:
                    speak.print(_batch_text(batch), soft_wrap=True, markup=False)
                    for record in found:
                        speak.print(_record_text(record), soft_wrap=True, markup=False)
                batch_count += 1
                record_count += batch.record_count
                end = batch.position + batch.size_bytes
            tail = None
        except BadBatchError as error:
            tail = error
        left = file.size_bytes - end
    if not json:
        speak.print(
            f"{plural(batch_count, 'batch')}, {plural(record_count, 'record')}, {size(end)}",
            style="bold",
        )
    if tail is None:
        return
    if tail.is_zeros:
        if not json:
            speak.print(f"then {size(left)} of zeros: room reserved ahead of the writes")
        return
    if json:
        write_json({"position": tail.position, "bytes_left": left, "error": tail.message})
    else:
        speak.print(
            f"[red]bad[/red] at byte {tail.position:,}: {tail.message} ({size(left)} are left)",
            soft_wrap=True,
        )
    raise typer.Exit(1)


def _batch_text(batch: Batch) -> str:
    parts = [
        f"offsets {batch.base_offset}..{batch.last_offset}",
        f"at {batch.position}",
        f"{batch.size_bytes} bytes",
        plural(batch.record_count, "record"),
        time_text(batch.max_timestamp),
        f"crc {batch.crc:08x}",
    ]
    if batch.codec != "none":
        parts.append(batch.codec)
    if batch.is_transactional:
        parts.append("transactional")
    if batch.is_control:
        parts.append("control")
    if batch.producer_id >= 0:
        parts.append(
            f"producer {batch.producer_id} epoch {batch.producer_epoch} from {batch.base_sequence}"
        )
    return "  ".join(parts)


def _record_text(record: SegmentRecord) -> str:
    headers = " ".join(f"{name}={preview(value, 40)}" for name, value in _headers(record))
    return (
        f"    {record.offset}  {time_text(record.timestamp_ms)}  {preview(record.key, 48)}  "
        f"{preview(record.value)}" + (f"  [{headers}]" if headers else "")
    )


def _headers(record: SegmentRecord) -> tuple[tuple[str, bytes | None], ...]:
    from eventlog.log.record import decode_headers

    return decode_headers(record.headers_data)


def _batch_json(batch: Batch, records: list[SegmentRecord] | None) -> dict[str, Any]:
    result: dict[str, Any] = batch._asdict()
    result["last_offset"] = batch.last_offset
    result["codec"] = batch.codec
    if records is not None:
        result["records"] = [
            {
                "offset": record.offset,
                "timestamp_ms": record.timestamp_ms,
                "key": bytes_text(record.key),
                "value": bytes_text(record.value),
                "headers": [[name, bytes_text(value)] for name, value in _headers(record)],
            }
            for record in records
        ]
    return result
