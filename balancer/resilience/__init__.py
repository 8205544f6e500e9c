"""Who may get traffic, and how often a thing is tried: health, outliers, eligibility, retries. Pure."""
