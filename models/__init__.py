"""p: content and style priors, likelihoods, decoders and the SimVE program. Nothing of inference lives here."""
