"""Files under the configured roots: opened safely, read in chunks, hashed, compressed, iterated.

Everything here is a plain function for a trio worker thread (`run_in_thread`): it may block, it
holds one chunk at a time, and it ends within one chunk of a cancel. Each module imports only from
those above it:

    beneath        opens files beneath a folder, without following links
    roots          opens files inside the roots
    output_folder  files that tools write, each whole or not at all
    chunks         a file in chunks
    hashing        digests of texts and files
    compression    sizes and ratios, or a compressed copy
    text_layers    packed files and wide encodings, as plain bytes
    text_format    packing, encoding and line ends, detected at the beginning of a file
    text_source    blocks of whole lines of text
    records        types of items, chunks and positions
    csv_header     the columns of CSV, and the delimiter
    csv_records    records of CSV
    json_lines     a JSON value on each line, and plain lines
    json_values    the elements of a JSON array, or values in sequence
    table_files    rows of Parquet, Arrow and Excel files, in a worker process
    datasets       a dataset's items, from a position on
"""
