"""The declaration of a tool: its arguments, their schemas, and its description.

Everything that clients read of a tool before they call it belongs here, and the check of their
arguments.

schemas       schemas that every model API takes
naming        the names in schemas and descriptions
arguments     the arguments that several tools share; arguments as hosts send them
declaration   the declaration of a tool: arguments, execution, annotations
"""
