"""Files under the configured roots: opened safely, read in chunks, hashed, compressed, iterated.

Everything here is a plain function for a trio worker thread (`run_in_thread`): it may block, it
holds one chunk at a time, and it ends within one chunk of a cancel. Each module imports only from
those above it:

    roots          what may be opened, and how
    output_folder  files that tools write, each whole or not at all
    chunks         a file, piece by piece
    hashing        digests of texts and files
    compression    sizes and ratios, or a compressed copy
    text_source    blocks of text, whatever they are packed and encoded with
    records        items, chunks and positions
    csv_records    records of CSV
    json_records   records of JSON and of plain lines
    table_files    rows of Parquet, Arrow and Excel files, in a worker process
    datasets       a dataset's items, from a position on
"""
