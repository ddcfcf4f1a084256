"""Fig. 2 as running software: a trusted third party, a provider and a client. Needs the extra ``service``.

`mixerkey.service.files` is what the third party hands out, `mixerkey.service.provider` answers over HTTP,
`mixerkey.service.client` encrypts and asks. The provider never has a key.
"""
