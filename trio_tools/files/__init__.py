"""Files under the configured roots: opened safely, read in chunks, hashed, compressed, iterated.

Everything here is a plain function for a trio worker thread (`run_in_thread`): it may block, it
holds one chunk at a time, and it ends within one chunk of a cancel. Each module imports only from
those above it:

    roots          what may be opened, and how
    output_folder  files that tools write, each whole or not at all
    chunks         a file, piece by piece
    hashing        digests of texts and files
    compression    sizes and ratios, or a compressed copy
    text_layers    what is packed or in a wide encoding, as plain bytes
    text_format    what a file of text is, found at its beginning
    text_source    blocks of whole lines of text
    records        items, chunks and positions
    csv_header     the columns of CSV, and the delimiter
    csv_records    records of CSV
    json_lines     a JSON value on each line, and plain lines
    json_values    the elements of a JSON array, or values in sequence
    table_files    rows of Parquet, Arrow and Excel files, in a worker process
    datasets       a dataset's items, from a position on
"""
