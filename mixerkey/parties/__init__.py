"""Fig. 2 as running software: a trusted third party, a provider and a client. Needs the extra ``service``.

`mixerkey.parties.trainer` is what the third party hands out, `mixerkey.parties.provider` answers over HTTP,
`mixerkey.parties.client` encrypts and asks. The provider never has a key.
"""
