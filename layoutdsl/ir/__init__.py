"""What a layout is: symbolic integers, element types, layouts as digits, and the typed program. Pure data and small pure functions."""
