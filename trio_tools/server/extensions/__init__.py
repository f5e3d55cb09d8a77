"""Extensions of MCP: tasks, and apps.

What only clients that declare an extension send or receive belongs here.

    task_states         a task as its client sees it, in this process or stored
    tasks               the Tasks extension
    apps                the Apps extension: a page for hosts that show one
    task_notifications  clients are told how their tasks go
"""
