//! Delivery: what each sink has been given, what it refused, what is to be sent again.
