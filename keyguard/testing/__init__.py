"""What tests of keyguard's users and plug authors may use; holds no code, so that the pytest plugin stays cheap."""
