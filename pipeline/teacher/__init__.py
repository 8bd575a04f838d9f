"""Teachers: encoders of the wav2vec 2.0 family with a linear readout, their training and their scores."""
