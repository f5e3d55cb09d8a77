"""The command `trio-tools`: its arguments, what each command does, and what a terminal shows.

`main` holds the only `trio.run` of the package.

    console    tables, progress and colours of the terminal
    demo       a run over a web site of its own on which things go wrong
    commands   what each command does
    main       arguments to settings, and settings to a command
"""
