"""From a document to a plan: names, cases, types, proofs. One file per pass; passes collect problems."""
