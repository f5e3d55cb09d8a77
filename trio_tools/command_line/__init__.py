"""The command `trio-tools`: its arguments, what each command does, and what a terminal shows.

`main` holds the only `trio.run` of the package.

    answer_tables  answers of batch calls as tables that fit
    console        tables, progress and colours of the terminal
    demo           a run over its own web site, with every kind of failure
    commented_json  the members of an object in JSON with comments       no I/O
    host_files     one entry in a host's file; every other byte stays     no I/O
    hosts          where each host keeps its servers
    host_answers   how a host uses our answers
    top            top: a server in a terminal
    dashboard      dashboard: the page of a stored state
    reload         reload
    install        install, uninstall
    upstreams      upstreams, and the hosts' files of servers
    doctor         doctor
    operations     operations
    commands       the function of each command
    main           arguments to settings, and settings to a command
"""
