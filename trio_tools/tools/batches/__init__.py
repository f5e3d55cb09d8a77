"""What every batch-like tool does, whatever it does to an item.

How a call runs an operation over many items, tells of its progress, pages its outcomes and goes on
in the background belongs here. What one tool takes and answers does not.

outcomes      how one outcome is shown, in an answer and on the way
output        all outcomes in a file
pagination    what of an operation fits into one answer
progress      how a tool tells its caller how it goes
background    operations that go on after their call has answered
answers       what a batch call answers, and how to go on
calls         how a batch-like tool runs an operation over many items
"""
