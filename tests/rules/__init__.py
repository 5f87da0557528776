"""Each rule of the contract, in process: the number in a test's name is the rule's."""
