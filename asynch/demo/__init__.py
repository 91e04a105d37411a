"""`asynch demo`: a sample model service, a scenario of three tenants, and the stage that joins them."""
