"""Extensions of MCP: tasks, and apps.

Messages that only clients with a declared extension send or receive belong here.

    task_states         a task as its client sees it, in this process or stored
    tasks               the Tasks extension
    apps                the Apps extension: a page for hosts that show one
    task_notifications  notifies clients of the progress of their tasks
"""
